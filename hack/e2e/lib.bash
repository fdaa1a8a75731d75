# shellcheck shell=bash disable=SC2154 # mode and backend are set by host
# What scenarios are written in: whom to ask, from where, and what to expect.

user_runtime=/run/user/1000
dropin=/etc/containers/containers.conf.d/50-netbackend.conf

lay_network() {
  # As on a Debian that has booted: groups of users may ping, and bridged packets are not filtered, unless somebody loads br_netfilter.
  echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
  local filter
  for filter in /proc/sys/net/bridge/bridge-nf-call-*tables; do [[ ! -e $filter ]] || echo 0 >"$filter"; done
  ip link set lo up
  ip netns add outside
  ip link add uplink type veth peer name eth0 netns outside
  ip address add 192.0.2.1/24 dev uplink
  ip address add 2001:db8::1/64 dev uplink nodad
  ip link set uplink up
  outside ip link set lo up
  outside ip address add 192.0.2.2/24 dev eth0
  outside ip address add 192.0.2.3/24 dev eth0
  outside ip address add 2001:db8::2/64 dev eth0 nodad
  outside ip address add 198.51.100.1/32 dev lo
  outside ip link set eth0 up
  ip route add default via 192.0.2.2
  ip route add default via 2001:db8::2
  cp --no-preserve=all /bin/ping /usr/local/bin/ # without the capabilities of its file, which containers do not have
  chmod 755 /usr/local/bin/ping
  outside dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --listen-address=192.0.2.2 --pid-file= \
    --host-record=far.example,198.51.100.1,2001:db8::2
  outside dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --listen-address=192.0.2.3 --pid-file= \
    --host-record=far.example,203.0.113.3
  outside answer tcp 7000 udp 7000 &
  echo 'nameserver 192.0.2.2' >/etc/resolv.conf
  printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
}

# Podman without systemd, rights over control groups or a registry. Containers see the programs of the host, so that an image needs
# none and copies of it cost nothing.
prepare_engine() {
  printf 'user:100000:65536\n' | tee /etc/subuid >/etc/subgid
  mkdir -p $user_runtime
  chown 1000:1000 $user_runtime
  chmod 700 $user_runtime
  printf '%s\n' '[storage]' 'driver = "vfs"' 'runroot = "/run/containers/storage"' 'graphroot = "/var/lib/containers/storage"' \
    >/etc/containers/storage.conf
  cat >/etc/containers/containers.conf <<'END'
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
END
  local name
  mkdir -p /run/image/{etc,tmp,root,run,proc,sys,dev,usr}
  for name in bin lib lib64 sbin; do ln -s "usr/$name" "/run/image/$name"; done
  echo 'root:x:0:0:root:/root:/bin/bash' >/run/image/etc/passwd
  tar -C /run/image -cf - . | podman import --quiet - image >/dev/null
}

# The switch, both ways, is this file alone.
use_ours() { [[ ! -e /root/dropin ]] || mv /root/dropin "$dropin"; }
use_stock() { [[ ! -e $dropin ]] || mv "$dropin" /root/dropin; }

# Podman as the one whose turn it is, with other helpers if `helpers` is set.
podman() {
  if [[ $mode == root ]]; then
    CONTAINERS_HELPER_BINARY_DIR=${helpers:-} command podman "$@"
  else
    as_user env CONTAINERS_HELPER_BINARY_DIR="${helpers:-}" podman "$@"
  fi
}
as_user() {
  (cd /home/user && exec setpriv --reuid user --regid user --init-groups --reset-env \
    env PATH="$PATH" XDG_RUNTIME_DIR=$user_runtime ${RUST_LOG:+RUST_LOG="$RUST_LOG"} "$@")
}
# Where rootful Podman's bridges and rules are, and where those of a user are.
bridge_host() {
  if [[ $mode == root ]]; then "$@"; else podman unshare --rootless-netns "$@"; fi
}

# Which executable a process of that name is of.
executable_of() { readlink "/proc/$(pgrep -o -x "$1")/exe"; }

# Where records of networks are.
podman_run() {
  if [[ $mode == root ]]; then echo /run/containers/networks; else echo $user_runtime/containers/networks; fi
}

outside() { ip netns exec outside "$@"; }
within() {
  local container=$1
  shift
  podman exec "$container" "$@"
}

# run NAME PODMAN_OPTIONS… -- CMD…: a container that does something.
run() {
  local name=$1 options=()
  shift
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  podman run -d --quiet --name "$name" -v /usr:/usr:ro "${options[@]}" image "$@" >/dev/null
}
# serve NAME PODMAN_OPTIONS… -- KIND PORT…: one that tells its name, and whom it sees.
serve() {
  local name=$1 options=()
  shift
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  run "$name" --hostname "$name" "${options[@]}" -- answer "$@"
}
# One that only is there.
idle() { run "$@" -- sleep 1000; }
gone() {
  podman rm -f -t 0 "$@" >/dev/null
}

said() { echo "$*" | tee -a /run/said >&2; }
equal() {
  [[ $1 == "$2" ]] || { said "${3:-got} \`$1\` instead of \`$2\`"; return 1; }
}
contains() {
  [[ $1 == *"$2"* ]] || { said "${3:-got} \`$1\` without \`$2\`"; return 1; }
}
# fails WHAT CMD…: the command must not succeed.
fails() {
  local what=$1 out
  shift
  if out=$("$@" 2>&1); then said "$what: $out"; return 1; fi
}
# eventually SECONDS CMD…
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < until)) || { said "not in time: $*"; return 1; }
    sleep 0.1
  done
}

# Everything that a container could leave behind. Podman's own known files are left out: the database of addresses, locks,
# the name of the firewall driver, its pause process (which holds a user's namespace), and empty directories. Rules are looked at beside it.
state() {
  echo '# links'; ip -o link show | sed 's/^[0-9]*: //; s/@.*\|:.*//' | sort
  echo '# addresses'; ip -o address show scope global | awk '{print $2, $4}' | sort
  echo '# routes'; { ip route show; ip -6 route show; ip rule show; } | sed 's/ *$//' | grep -v ' metric 256\|multicast' | sort
  echo '# processes'
  ps -eo comm=,args= | awk '$1 !~ /^(ps|awk|sort|bash|sleep|grep|sed|dnsmasq|socat|tee|host|catatonit)$/ && !/podman pause/ { print $1 }' | sort
  echo '# namespaces'; awk '$(NF - 2) == "nsfs" { print $5 }' /proc/self/mountinfo | sort
  echo '# files'
  find /run/containers/networks /run/containers/netavark* $user_runtime/containers/networks $user_runtime/netns /run/netns /run/sysctl.d \
    ! -type d ! -name ipam.db ! -name '*.lock' ! -name firewall-driver 2>/dev/null | sort
  podman network ls --quiet | sort
}

look_around() {
  {
    state
    nft list ruleset
    podman ps -a --no-trunc || true
    [[ $mode == root ]] || podman unshare --rootless-netns sh -c 'ip addr; ip route; nft list ruleset' || true
    ps -eo pid,ppid,user,args | cut -c 1-140
  } >/run/around 2>&1
  cat /run/around >&2
}
