# shellcheck shell=bash disable=SC2154
# How long `podman run --rm` takes on a bridge network with one published port, with ours, with Podman's own and without any
# network, in turns; and how long the calls of netavark within it take, setup and teardown together. On the default network, on one
# with names, and on one that has another container, so that its bridge need not come and go.

# time_runs N: N of each, after one that is not counted.
time_runs() {
  local rounds=$1 round kind network
  podman network create net >/dev/null
  podman network create busy >/dev/null
  wrap ours /usr/local/libexec/netbackend
  wrap stock /usr/lib/podman
  for network in podman net busy; do
    rm -f /run/times.*
    for ((round = 0; round <= rounds; round++)); do
      for kind in ours stock none; do one_run "$kind" $network "$round"; done
      for kind in ours stock; do one_call "$kind" $network "$round"; done
    done
    show $network
  done
}

one_run() {
  local kind=$1 network=$2 round=$3 options=(-p 8080:80) start
  case $kind in
  none) network=none options=() ;;
  *) "use_$kind" ;;
  esac
  [[ $network != busy ]] || idle neighbour --network busy
  start=$EPOCHREALTIME
  podman run --rm --quiet -v /usr:/usr:ro --network "$network" "${options[@]}" image true
  ((round == 0)) || milliseconds "$start" "$EPOCHREALTIME" >>"/run/times.$kind"
  [[ $network != busy ]] || gone neighbour
}

# The same with netavark called by a script that writes down how long it took, which is too slow to be timed itself.
one_call() {
  local kind=$1 network=$2 round=$3
  "use_$kind"
  [[ $network != busy ]] || idle neighbour --network busy
  rm -f /tmp/calls
  helpers=/usr/local/libexec/e2e-$kind podman run --rm --quiet -v /usr:/usr:ro --network "$network" -p 8080:80 image true
  ((round == 0)) || awk '{ sum += $1 } END { print sum }' /tmp/calls >>"/run/times.call-$kind"
  [[ $network != busy ]] || gone neighbour
}

wrap() {
  mkdir -p "/usr/local/libexec/e2e-$1"
  cat >"/usr/local/libexec/e2e-$1/netavark" <<END
#!/bin/bash
start=\$EPOCHREALTIME
"$2/netavark" "\$@"
code=\$?
awk "BEGIN { print 1000 * (\$EPOCHREALTIME - \$start) }" >>/tmp/calls
exit \$code
END
  chmod 755 "/usr/local/libexec/e2e-$1/netavark"
  ln -s "$2/aardvark-dns" "/usr/local/libexec/e2e-$1/aardvark-dns"
  if [[ -e $2/pasta ]]; then ln -s "$2/pasta" "/usr/local/libexec/e2e-$1/pasta"; else ln -s /usr/bin/pasta "/usr/local/libexec/e2e-$1/pasta"; fi
}

milliseconds() { awk "BEGIN { print 1000 * ($2 - $1) }"; }
median() { sort -n "$1" | awk '{ line[NR] = $1 } END { print (line[int((NR + 1) / 2)] + line[int((NR + 2) / 2)]) / 2 }'; }

show() {
  local ours stock none
  ours=$(median /run/times.ours) stock=$(median /run/times.stock) none=$(median /run/times.none)
  awk -v mode="$mode" -v network="$1" -v ours="$ours" -v stock="$stock" -v none="$none" \
    -v ours_call="$(median /run/times.call-ours)" -v stock_call="$(median /run/times.call-stock)" '
    function line(who, all, call) {
      printf "%-5s %-8s %-6s %8.1f %12.1f %5.0f%% %12.1f %5.0f%%\n", mode, network, who, all, all - none, 100 * (all - none) / all, call, 100 * call / all
    }
    BEGIN { line("ours", ours, ours_call); line("stock", stock, stock_call); printf "%-5s %-8s %-6s %8.1f\n", mode, network, "none", none }' >>/run/result
}
