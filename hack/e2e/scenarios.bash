# shellcheck shell=bash disable=SC2154
# What is done with Podman, one function each. A comment after the name tells that only root or only an ordinary user does it, or
# only Podman 5, or that it is done with ours alone. Each takes away what it made; then it is looked whether anything is left.

# Podman really calls what has been installed, and after --uninstall its own.
scenario_installed() { # ours
  podman network create net >/dev/null
  idle web --network net
  equal "$(executable_of aardvark-dns)" /usr/local/bin/dnsd
  [[ $mode == root || $podman == 4.* ]] || equal "$(executable_of pasta)" /usr/local/bin/usernet
  gone web
  cp -r /usr/local/bin /run/e2e/bin
  /run/e2e/hack/install --uninstall 2>/dev/null
  equal "$(find /usr/local/bin /usr/local/libexec "$dropin" -name 'net*' -o -name dnsd -o -name usernet 2>/dev/null)" ''
  echo mine >/usr/local/bin/dnsd
  fails 'it is installed over a stranger' /run/e2e/hack/install --bin /run/e2e/bin
  equal "$(</usr/local/bin/dnsd) $(ls /usr/local/libexec)" 'mine '
  rm /usr/local/bin/dnsd
  idle web --network net
  equal "$(executable_of aardvark-dns)" /usr/lib/podman/aardvark-dns
  gone web
  podman network rm net >/dev/null
  [[ $mode == user ]] || nft flush ruleset # netavark leaves chains behind
}

scenario_installed_for_oneself() { # user, ours
  use_stock
  as_user /run/e2e/hack/install --bin /usr/local/bin
  podman network create net >/dev/null
  idle web --network net
  equal "$(executable_of aardvark-dns)" /home/user/.local/bin/dnsd
  [[ $podman == 4.* ]] || equal "$(executable_of pasta)" /home/user/.local/bin/usernet
  gone web
  as_user /run/e2e/hack/install --uninstall 2>/dev/null
  equal "$(find /home/user/.local/bin /home/user/.local/libexec /home/user/.config/containers ! -type d)" ''
  idle web --network net
  equal "$(executable_of aardvark-dns)" /usr/lib/podman/aardvark-dns
  gone web
  podman network rm net >/dev/null
}

scenario_default_network() {
  local network=() # an ordinary user's default is another one
  [[ $mode == root ]] || network=(--network podman)
  serve web "${network[@]}" -p 8080:80 -- tcp 80
  equal "$(within web ip -4 -o address show eth0 | awk '{print $4}')" 10.88.0.2/16
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'the way in'
  gone web
}

scenario_custom_network() {
  podman network create net >/dev/null
  serve web --network net -- tcp 80 udp 90
  idle client --network net
  equal "$(within web ip -4 -o address show eth0 | awk '{print $4}')" 10.89.0.2/24
  equal "$(within client ask tcp 10.89.0.2 80)" 'web 10.89.0.3'
  equal "$(within client ask udp 10.89.0.2 90)" 'web 10.89.0.3'
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  equal "$(within web ask udp 192.0.2.2 7000)" 'host 192.0.2.1' 'the way out for datagrams'
  within web ping -q -c 1 -W 2 10.89.0.1
  gone web client
  podman network rm net >/dev/null
}

scenario_dual_stack() {
  podman network create --ipv6 --subnet 10.77.0.0/24 --subnet fd00:77::/64 net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  idle client --network net
  equal "$(within client ask tcp 10.77.0.2 80)" 'web 10.77.0.3'
  equal "$(within client ask tcp fd00:77::2 80)" 'web fd00:77::3'
  equal "$(within web ask tcp 192.0.2.2 7000)" 'host 192.0.2.1'
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  contains "$(outside ask tcp 2001:db8::1 8080)" 'web '
  if [[ $mode == root || $podman == 5.* ]]; then # slirp4netns, which users of Podman 4 have, knows no IPv6 to the outside
    equal "$(within web ask tcp 2001:db8::2 7000)" 'host 2001:db8::1'
  fi
  equal "$(within client dig +short +tries=2 +time=2 web AAAA | sort -u)" fd00:77::2
  gone web client
  podman network rm net >/dev/null
}

scenario_names() {
  podman network create net >/dev/null
  idle web --network net --network-alias www --network-alias shop
  idle client --network net
  local name
  for name in web www shop web.dns.podman; do
    equal "$(within client dig +short +tries=2 +time=2 "$name")" 10.89.0.2 "$name is"
  done
  contains "$(within client dig +short +tries=2 +time=2 -x 10.89.0.2)" web.
  equal "$(within client dig +short +tries=2 +time=2 far.example)" 198.51.100.1
  contains "$(within client dig +tries=2 +time=2 nobody.dns.podman)" NXDOMAIN
  equal "$(within client getent ahostsv4 web | awk '{print $1; exit}')" 10.89.0.2 'by the C library'
  gone web
  contains "$(within client dig +tries=2 +time=2 web.dns.podman)" NXDOMAIN
  gone client
  podman network rm net >/dev/null
}

scenario_published_ports() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  idle client --network net
  if [[ $mode == root ]]; then
    equal "$(outside ask tcp 192.0.2.1 8080)" 'web 192.0.2.2' 'from outside'
  else # a user's ports are forwarded by a program: the client's address is not seen
    contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'from outside'
  fi
  contains "$(ask tcp 192.0.2.1 8080)" 'web ' 'from the host'
  contains "$(ask tcp 127.0.0.1 8080)" 'web ' 'from localhost'
  contains "$(within client ask tcp 192.0.2.1 8080)" 'web ' 'from a neighbour, by the address of the host'
  contains "$(within web ask tcp 192.0.2.1 8080)" 'web ' 'from itself, by the address of the host'
  gone web client
  podman network rm net >/dev/null
  fails 'the port is still open' ask tcp 127.0.0.1 8080
}

scenario_port_on_ip6_localhost() {
  podman network create --ipv6 net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  contains "$(ask tcp ::1 8080)" 'web '
  gone web
  podman network rm net >/dev/null
}

scenario_port_ranges() {
  serve web --network podman -p 9000-9004:8000-8004 -- tcp 8000 8004 udp 8002
  contains "$(outside ask tcp 192.0.2.1 9000)" 'web '
  contains "$(outside ask tcp 192.0.2.1 9004)" 'web '
  fails 'a port that nobody serves' outside ask tcp 192.0.2.1 9001
  gone web
  serve web --network podman -p 9000-9004:8000-8004/udp -- udp 8002
  contains "$(outside ask udp 192.0.2.1 9002)" 'web '
  gone web
}

scenario_udp_ports() {
  podman network create net >/dev/null
  serve web --network net -p 5353:53/udp -- udp 53
  contains "$(outside ask udp 192.0.2.1 5353)" 'web ' 'from outside'
  contains "$(ask udp 192.0.2.1 5353)" 'web ' 'from the host'
  contains "$(ask udp 127.0.0.1 5353)" 'web ' 'from localhost'
  gone web
  # The same client, port and all, gets to the next container, not into nothing.
  serve next --network net -p 5353:53/udp -- udp 53
  contains "$(outside ask udp 192.0.2.1 5353)" 'next ' 'from outside, later'
  gone next
  podman network rm net >/dev/null
}

scenario_port_addresses() {
  serve web --network podman -p 127.0.0.1:8080:80 -p 192.0.2.1:8081:80 -- tcp 80
  contains "$(ask tcp 127.0.0.1 8080)" 'web '
  contains "$(outside ask tcp 192.0.2.1 8081)" 'web '
  fails 'localhost only' outside ask tcp 192.0.2.1 8080
  fails 'not on localhost' ask tcp 127.0.0.1 8081
  gone web
}

scenario_pod() {
  podman network create net >/dev/null
  podman pod create --name pod --network net --network-alias www -p 8080:80 >/dev/null
  run web --pod pod -- answer tcp 80
  idle side --pod pod
  idle client --network net
  contains "$(outside ask tcp 192.0.2.1 8080)" 'pod '
  equal "$(within side ask tcp 127.0.0.1 80)" 'pod 127.0.0.1'
  equal "$(within client ask tcp pod 80)" 'pod 10.89.0.3'
  equal "$(within client ask tcp www 80)" 'pod 10.89.0.3'
  gone client
  podman pod rm -f -t 0 pod >/dev/null
  podman network rm net >/dev/null
}

scenario_connect_disconnect() {
  podman network create net >/dev/null
  podman network create other >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  idle client --network other
  podman network connect --alias www other web
  equal "$(within web ip -4 -o address show eth1 | awk '{print $4}')" 10.89.1.3/24
  equal "$(within client ask tcp www 80)" 'web 10.89.1.2'
  podman network disconnect net web
  fails 'the interface is still there' within web ip link show eth0
  equal "$(within client ask tcp www 80)" 'web 10.89.1.2'
  podman network connect net web
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  podman network disconnect other web
  fails 'the name is still known' within client ask tcp www 80
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  gone web client
  podman network rm net other >/dev/null
}

scenario_reload() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  idle client --network net
  bridge_host nft flush ruleset
  podman network reload --all >/dev/null
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  equal "$(within client ask tcp web 80)" 'web 10.89.0.3'
  gone web client
  podman network rm net >/dev/null
}

scenario_update() { # Podman 5
  podman network create net >/dev/null
  idle web --network net
  equal "$(within web dig +short +tries=2 +time=2 far.example)" 198.51.100.1
  podman network update net --dns-add 192.0.2.3
  eventually 3 update_seen web far.example 203.0.113.3
  podman network update net --dns-drop 192.0.2.3
  eventually 3 update_seen web far.example 198.51.100.1
  gone web
  podman network rm net >/dev/null
}
update_seen() { [[ $(within "$1" dig +short +tries=2 +time=2 "$2") == "$3" ]]; }

scenario_restart_policies() {
  podman network create net >/dev/null
  serve web --network net --restart always -p 8080:80 -- tcp 80
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  kill -KILL "$(podman inspect -f '{{.State.Pid}}' web)"
  eventually 8 restarts_are web 1
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'after it was killed'
  run bad --network net --restart on-failure:2 -p 8081:80 -- sh -c 'exit 3'
  eventually 8 restarts_are bad 2
  eventually 8 is_exited bad
  gone web bad
  podman network rm net >/dev/null
}
restarts_are() { [[ $(podman inspect -f '{{.RestartCount}}' "$1") == "$2" ]]; }
is_exited() { [[ $(podman inspect -f '{{.State.Status}}' "$1") == exited ]]; }

scenario_static_addresses() {
  podman network create --subnet 10.77.0.0/24 --subnet fd00:77::/64 net >/dev/null
  idle web --network net --ip 10.77.0.50 --ip6 fd00:77::50 --mac-address 02:00:5e:10:00:50
  idle client --network net
  equal "$(within web ip -o address show eth0 scope global | awk '{print $4}' | sort | xargs)" '10.77.0.50/24 fd00:77::50/64'
  contains "$(within web ip link show eth0)" 02:00:5e:10:00:50
  within client ping -q -c 1 -W 2 10.77.0.50
  within client ping -q -c 1 -W 2 fd00:77::50
  gone web client
  podman network rm net >/dev/null
}

scenario_internal_network() {
  podman network create --internal --subnet 10.77.0.0/24 --subnet fd00:77::/64 net >/dev/null
  serve web --network net -- tcp 80
  idle client --network net
  equal "$(within client ask tcp 10.77.0.2 80)" 'web 10.77.0.3'
  contains "$(within client ask tcp web 80)" 'web '
  contains "$(within client ask tcp fd00:77::2 80)" 'web '
  fails 'it gets out' within client ask tcp 192.0.2.2 7000
  fails 'it gets out by IPv6' within client ask tcp 2001:db8::2 7000
  gone web client
  podman network rm net >/dev/null
}

scenario_isolated_networks() {
  podman network create -o isolate=true one >/dev/null
  podman network create -o isolate=true two >/dev/null
  serve web --network one -- tcp 80
  idle client --network two
  idle neighbour --network one
  equal "$(within neighbour ask tcp 10.89.0.2 80)" 'web 10.89.0.3'
  fails 'it gets to the other network' within client ask tcp 10.89.0.2 80
  equal "$(within client ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  gone web client neighbour
  podman network rm one two >/dev/null
}

scenario_macvlan() { # root
  podman network create -d macvlan -o parent=uplink --subnet 192.0.2.0/24 --gateway 192.0.2.2 net >/dev/null
  serve web --network net --ip 192.0.2.77 -- tcp 80
  equal "$(outside ask tcp 192.0.2.77 80)" 'web 192.0.2.2'
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.77' 'the way out'
  gone web
  podman network rm net >/dev/null
}

scenario_pasta() { # user, Podman 5
  serve web -p 8080:80 -p 5353:53/udp -- tcp 80 udp 53
  equal "$(within web ip -4 -o address show uplink | awk '{print $4}')" 192.0.2.1/24
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  equal "$(within web ask udp 192.0.2.2 7000)" 'host 192.0.2.1' 'the way out for datagrams'
  equal "$(within web ask tcp 2001:db8::2 7000)" 'host 2001:db8::1' 'the way out by IPv6'
  equal "$(within web dig +short +tries=2 +time=2 far.example)" 198.51.100.1
  equal "$(outside ask tcp 192.0.2.1 8080)" 'web 192.0.2.2' 'from outside'
  equal "$(outside ask tcp 2001:db8::1 8080)" 'web 2001:db8::2' 'from outside by IPv6'
  equal "$(outside ask udp 192.0.2.1 5353)" 'web 192.0.2.2' 'datagrams from outside'
  contains "$(ask tcp 127.0.0.1 8080)" 'web ' 'from localhost'
  contains "$(ask tcp ::1 8080)" 'web ' 'from localhost by IPv6'
  within web ping -q -c 1 -W 2 192.0.2.2
  gone web
}

scenario_pasta_options() { # user, Podman 5
  answer tcp 5000 &
  local answers=$!
  idle one --network pasta:-T,5000
  contains "$(within one ask tcp 127.0.0.1 5000)" 'host ' 'a port of the host, on localhost'
  gone one
  idle one --network pasta:--map-gw
  contains "$(within one ask tcp 192.0.2.2 5000)" 'host ' 'the host, by the address of the gateway'
  gone one
  serve one --network pasta:-t,8080:80,--ipv4-only,-I,eth7,--mtu,1400,-a,10.5.0.2,-n,24,-g,10.5.0.1 -- tcp 80
  equal "$(within one ip -4 -o address show eth7 | awk '{print $4}')" 10.5.0.2/24
  contains "$(within one ip link show eth7)" 'mtu 1400'
  contains "$(within one ip route)" 'default via 10.5.0.1'
  equal "$(within one ip -6 -o address show eth7 scope global)" ''
  equal "$(outside ask tcp 192.0.2.1 8080)" 'one 192.0.2.2' 'from outside'
  gone one
  kill $answers
}

scenario_host_by_name() {
  answer tcp 5000 &
  local answers=$!
  podman network create net >/dev/null
  idle one --network net
  idle two
  contains "$(within one ask tcp host.containers.internal 5000)" 'host ' 'on a network'
  contains "$(within two ask tcp host.containers.internal 5000)" 'host ' 'on the default network'
  gone one two
  kill $answers
  podman network rm net >/dev/null
}

scenario_restart_same_port() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -p 5353:53/udp -- tcp 80 udp 53
  podman restart -t 0 web >/dev/null
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'after restart'
  contains "$(outside ask udp 192.0.2.1 5353)" 'web ' 'after restart'
  podman stop -t 0 web >/dev/null
  fails 'a port of a container that is stopped' outside ask tcp 192.0.2.1 8080
  podman start web >/dev/null
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web ' 'after stop and start'
  gone web
  serve other --network net -p 8080:80 -- tcp 80
  contains "$(outside ask tcp 192.0.2.1 8080)" 'other ' 'after another took it'
  gone other
  podman network rm net >/dev/null
}

scenario_fifty_at_once() {
  podman network create net >/dev/null
  local n starting=() names=()
  for n in {1..50}; do
    idle "c$n" --network net -p "$((9000 + n)):80" &
    starting+=($!)
    names+=("c$n")
  done
  for n in "${starting[@]}"; do wait "$n"; done
  equal "$(within c1 dig +short +tries=2 +time=2 "${names[@]}" | sort -u | wc -l)" 50
  gone "${names[@]}"
  podman network rm net >/dev/null
}

scenario_system_reset() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  serve other -p 8081:80 -- tcp 80
  podman system reset -f >/dev/null
}

# The order of the command line is lost by Podman 5; each network is on an interface, and the way out is one of them.
scenario_several_networks() {
  podman network create one >/dev/null
  podman network create --disable-dns two >/dev/null
  serve web --network one --network two:ip=10.89.1.50,interface_name=second,mac=02:00:5e:10:00:51 -p 8080:80 -- tcp 80
  idle client --network one
  idle other --network two
  equal "$(within web ip -4 -o address show second | awk '{print $4}')" 10.89.1.50/24
  contains "$(within web ip link show second)" 02:00:5e:10:00:51
  equal "$(within client ask tcp web 80)" 'web 10.89.0.3'
  equal "$(within other ask tcp 10.89.1.50 80)" 'web 10.89.1.2'
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  gone web client other
  podman network rm one two >/dev/null
}

scenario_own_name_servers() { # Podman 5
  podman network create net >/dev/null
  idle web --network net --dns 192.0.2.3
  idle client --network net
  equal "$(within web dig +short +tries=2 +time=2 far.example)" 203.0.113.3
  equal "$(within client dig +short +tries=2 +time=2 far.example)" 198.51.100.1
  equal "$(within web dig +short +tries=2 +time=2 client)" 10.89.0.3
  gone web client
  podman network rm net >/dev/null
}

scenario_own_user_namespace() {
  podman network create net >/dev/null
  local users=(--uidmap 0:200000:1000 --gidmap 0:200000:1000)
  [[ $mode == root ]] || users=(--userns keep-id)
  serve web --network net "${users[@]}" -p 8080:8000 -- tcp 8000
  idle client --network net
  equal "$(within client ask tcp web 8000)" 'web 10.89.0.3'
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  gone web client
  [[ $mode == root || $podman == 5.* ]] || rm -f "$user_runtime"/netns/netns-* # Podman 4 forgets it, whatever the backend
  podman network rm net >/dev/null
}

scenario_build() { # Podman 5
  local network=(--network net) neighbour=10.89.0.2
  [[ $mode == root ]] || network=() neighbour='' # Podman builds on networks as root only
  podman network create net >/dev/null
  idle web --network net
  printf 'FROM image\nRUN ask tcp 198.51.100.1 7000 >/seen && dig +short web >>/seen || true\n' >/tmp/Containerfile
  podman build --quiet "${network[@]}" --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 -v /usr:/usr:ro -f /tmp/Containerfile -t built /run/image/tmp >/dev/null
  equal "$(podman run --rm -v /usr:/usr:ro --network none built cat /seen | xargs)" "host 192.0.2.1${neighbour:+ $neighbour}"
  gone web
  podman rmi -f built >/dev/null
  podman network rm net >/dev/null
}

scenario_port_taken() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  fails 'a port is given twice' run other --network net -p 8080:80 -- sleep 1000
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  gone web other
  podman network rm net >/dev/null
}

# Each call is written down, and what is called is what Podman would call.
scenario_recorded() { # ours
  local as=() calls=/var/tmp/calls call
  [[ $mode == root ]] || as=(as_user)
  podman network create net >/dev/null
  "${as[@]}" env -u CONTAINERS_HELPER_BINARY_DIR netbackend record $calls -- podman run -d --quiet --name web -v /usr:/usr:ro --network net image sleep 1000 >/dev/null
  idle client --network net
  equal "$(within client dig +short +tries=2 +time=2 web)" 10.89.0.2
  "${as[@]}" netbackend record $calls -- podman rm -f -t 0 web >/dev/null
  for call in setup teardown; do
    contains "$(cat $calls/*-$call.json)" '"exit_code": 0' "the call of $call"
    contains "$(cat $calls/*-$call.json)" '"program": "/usr/local/libexec/netbackend/netavark"' "the call of $call"
  done
  gone client
  podman network rm net >/dev/null
  rm -r $calls
}

scenario_dns_responder_killed() {
  podman network create net >/dev/null
  idle web --network net
  kill -KILL "$(pgrep -o -x aardvark-dns)"
  idle client --network net
  equal "$(within client dig +short +tries=2 +time=2 web)" 10.89.0.2
  equal "$(within web dig +short +tries=2 +time=2 client)" 10.89.0.3
  gone web client
  podman network rm net >/dev/null
}

# Everything dies, and /run is empty.
scenario_power_loss() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  power_loss "$(podman inspect -f '{{.State.Pid}}' web)"
  podman start web >/dev/null
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  equal "$(within web ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  gone web
  podman network rm net >/dev/null
}
power_loss() {
  pkill -KILL '^(conmon|aardvark-dns|pasta|pasta.avx2|slirp4netns|rootlessport|catatonit)' || true
  kill -KILL "$@"
  local link netns
  for link in /sys/class/net/podman* /sys/class/net/veth*; do ip link delete "${link##*/}" 2>/dev/null || true; done
  nft flush ruleset
  for netns in /run/netns/netns-*; do [[ ! -e $netns ]] || { umount -l "$netns" && rm "$netns"; }; done
  rm -rf /run/containers /run/libpod /run/crun /dev/shm/* "${user_runtime:?}"/* /tmp/containers-user-* /tmp/storage-run-*
}

# Killed while they run, and everything of theirs with them: the next call is not held up by what they left.
scenario_containers_killed() {
  podman network create net >/dev/null
  serve web --network net -p 8080:80 -- tcp 80
  local victim
  victim=$(podman inspect -f '{{.State.Pid}}' web)
  pkill -KILL conmon
  kill -KILL "$victim"
  eventually 5 is_dead "$victim"
  gone web 2>/dev/null || gone web # Podman wants to be told twice when it does not know the exit code
  serve web --network net -p 8080:80 -- tcp 80
  contains "$(outside ask tcp 192.0.2.1 8080)" 'web '
  gone web
  podman network rm net >/dev/null
}
is_dead() { ! kill -0 "$1" 2>/dev/null; }

# Containers that were started with one set of executables live on with the other, and are taken down with it; there and back.
scenario_switch() {
  local there=stock back=ours
  [[ $backend == ours ]] || there=ours back=stock
  podman network create net >/dev/null
  serve a --network net -p 8080:80 -- tcp 80
  contains "$(outside ask tcp 192.0.2.1 8080)" 'a '
  "switch_to_$there"
  contains "$(outside ask tcp 192.0.2.1 8080)" 'a ' 'after the switch'
  serve b --network net -p 8081:80 -- tcp 80
  serve c --network net -p 8082:80 -- tcp 80
  all_reach_all a b c
  gone a b
  fails 'the port of a container that is gone' outside ask tcp 192.0.2.1 8080
  "switch_to_$back"
  contains "$(outside ask tcp 192.0.2.1 8082)" 'c ' 'after the way back'
  serve d --network net -p 8083:80 -- tcp 80
  all_reach_all c d
  gone c d
  podman network rm net >/dev/null
  # Each leaves alone what only the other knows: our records, chains of netavark's. Both are gone with the next boot.
  [[ $back == ours ]] || rm -rf "$(podman_run)/netbackend"
  [[ $podman == 5.* || $mode == user ]] || nft flush ruleset
}
# Those of a container's own network are not concerned, until it stops.
scenario_switch_pasta() { # user, Podman 5
  local there=stock
  [[ $backend == ours ]] || there=ours
  serve web -p 8080:80 -- tcp 80
  "use_$there"
  equal "$(outside ask tcp 192.0.2.1 8080)" 'web 192.0.2.2'
  podman stop -t 0 web >/dev/null
  eventually 5 no_pasta # either ends when it sees that its namespace has gone, and only ours waits for the other one's port
  podman start web >/dev/null
  equal "$(outside ask tcp 192.0.2.1 8080)" 'web 192.0.2.2' 'from outside, after the switch'
  "use_$backend"
  gone web
}
no_pasta() { ! pgrep '^pasta' >/dev/null; }
all_reach_all() {
  local from to
  for from; do
    for to; do contains "$(within "$from" ask tcp "$to" 80)" "$to "; done
    equal "$(within "$from" ask tcp 198.51.100.1 7000)" 'host 192.0.2.1' 'the way out'
  done
}
# As README says. What keeps its rules in iptables is not followed by others while containers run.
switch_to_ours() {
  [[ $podman == 5.* ]] || podman stop -a -t 0 >/dev/null
  use_ours
  [[ $podman == 5.* ]] || podman start --all >/dev/null
}
switch_to_stock() {
  if [[ $podman == 5.* ]]; then
    use_stock
    bridge_host nft delete table inet netavark
    podman network reload --all >/dev/null
  else
    podman stop -a -t 0 >/dev/null
    use_stock
    podman start --all >/dev/null
  fi
}
