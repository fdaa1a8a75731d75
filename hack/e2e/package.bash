# shellcheck shell=bash disable=SC2154 # mode, podman and dropin are set by e2e/host and e2e/lib.bash
# The scenario of hack/try-package, in a host of hack/e2e.

step() { echo "step: $mode: $*" >&2; }

# What packages and administrators put there. dpkg's own records, and what Podman has run, are left out.
files() {
  find /etc /usr /var/lib ! -path '/var/lib/dpkg*' ! -path '/var/lib/containers*' ! -path '/etc/ld.so.cache' ! -type d | sort
}

# A published port is reached from outside, and the helpers are these.
works_with() {
  local dns=$1 pasta=$2
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  idle client --network net
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'the way in'
  contains "$(within client ask tcp web 80)" 'web ' 'by name'
  equal "$(executable_of aardvark-dns)" "$dns"
  local exe
  [[ $mode == root || $podman == 4.* ]] || { exe=$(executable_of 'pasta(.avx2)?'); equal "${exe%.avx2}" "$pasta"; }
  [[ $dns != /usr/bin/dnsd ]] || doctor
  gone web client
  podman network rm net >/dev/null
}

# It knows where whose containers are on record.
doctor() {
  step 'doctor'
  bridge_host netbackend doctor >/run/doctor
  cat /run/doctor >&2
  contains "$(</run/doctor)" 'networks: 1, containers: 2' 'the doctor'
}

stock() {
  works_with /usr/lib/podman/aardvark-dns /usr/bin/pasta
  [[ $mode == user ]] || nft flush ruleset # netavark leaves chains behind
}

switch_on() {
  if [[ $mode == root ]]; then
    mkdir -p "${dropin%/*}"
    ln -s /usr/share/netbackend/50-netbackend.conf "$dropin"
  else
    as_user mkdir -p .config/containers/containers.conf.d
    as_user cp /usr/share/netbackend/50-netbackend.conf .config/containers/containers.conf.d/
  fi
}

scenario_package() {
  files >/run/files.before
  step 'install: nothing is switched on'
  dpkg -i /package.deb >/dev/null
  stock
  step 'switch on, run a container with a published port'
  switch_on
  works_with /usr/bin/dnsd /usr/bin/usernet
  man -w dnsd >/dev/null 2>&1 || [[ -e /usr/share/man/man1/dnsd.1.gz ]]
  step 'link a unit over that of netavark'
  local unit=netavark-dhcp-proxy.socket wants=/etc/systemd/system/sockets.target.wants before
  before=$(readlink -f $wants/$unit || true) # Debian's netavark has it enabled
  ln -sfn /usr/share/netbackend/systemd/$unit /etc/systemd/system/$unit
  [[ -z $before ]] || ln -sfn /usr/share/netbackend/systemd/$unit $wants/$unit
  step 'remove: all is as it was'
  dpkg -r netbackend >/dev/null
  equal "$(readlink -f $wants/$unit || true)" "$before"
  stock
  dpkg -P netbackend >/dev/null
  files >/run/files.after
  equal "$(diff /run/files.before /run/files.after)" '' 'left behind'
}
