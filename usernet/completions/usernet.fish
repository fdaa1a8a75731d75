complete -c usernet -l stats -d 'Show counts of events at most so often; needs --foreground before it' -r -f
complete -c usernet -s l -l log-file -d 'Write messages to this file, and not to the system\'s log' -r -F
complete -c usernet -l log-size -d 'The most that the log file may grow to, 40960 or more default: 1048576' -r -f
complete -c usernet -l runas -d 'Run as this user and group, numbers or names default: nobody, when started by the root of the system' -r -f
complete -c usernet -s c -l conf-path -d 'Socket through which ports can be added and removed later' -r -F
complete -c usernet -s I -l ns-ifname -d 'Name of the guest\'s interface default: that of the host\'s interface, otherwise tap0' -r -f
complete -c usernet -s p -l pcap -d 'Write every frame of the link to this file, for tcpdump and its like' -r -F
complete -c usernet -s P -l pid -d 'Write the process id to this file' -r -F
complete -c usernet -s m -l mtu -d 'Largest IP packet of the guest\'s interface; 0: leave it alone default: 65520' -r -f
complete -c usernet -s a -l address -d 'The guest\'s address; once for IPv4, once for IPv6 default: those of the host\'s interface' -r -f
complete -c usernet -s n -l netmask -d 'Netmask of the guest\'s IPv4 address, with dots or as a number of bits' -r -f
complete -c usernet -s M -l mac-addr -d 'Our own link-layer address default: 9a:55:9a:55:9a:55' -r -f
complete -c usernet -s g -l gateway -d 'The guest\'s gateway; once for IPv4, once for IPv6 default: that of the host; with its other routes' -r -f
complete -c usernet -s i -l interface -d 'The host\'s interface whose addresses and routes the guest gets default: that of --outbound-if4 or --outbound-if6, otherwise of the first default route' -r -f
complete -c usernet -s o -l outbound -d 'The host\'s address that connections leave from; once for IPv4, once for IPv6' -r -f
complete -c usernet -l outbound-if4 -d 'The host\'s interface that IPv4 connections leave by' -r -f
complete -c usernet -l outbound-if6 -d 'The host\'s interface that IPv6 connections leave by' -r -f
complete -c usernet -s D -l dns -d 'Name server that the guest is told of; can be given several times; none: no server' -r -f
complete -c usernet -s S -l search -d 'Search domain that the guest is told of, up to six; none: no domain' -r -f
complete -c usernet -s H -l hostname -d 'Host name that the guest is told of' -r -f
complete -c usernet -l fqdn -d 'Full name that the guest is told of' -r -f
complete -c usernet -l map-host-loopback -d 'The guest\'s name for the host\'s loopback address; once for IPv4, once for IPv6; none: no such name default: the gateway' -r -f
complete -c usernet -l map-guest-addr -d 'The guest\'s name for the host\'s address that equals its own; once for IPv4, once for IPv6' -r -f
complete -c usernet -l dns-forward -d 'Queries to this address go to the host\'s name server; once for IPv4, once for IPv6' -r -f
complete -c usernet -l dns-host -d 'The host\'s name server; once for IPv4, once for IPv6 default: the first in resolv.conf' -r -f
complete -c usernet -s t -l tcp-ports -d 'TCP ports of the host that lead to the guest; can be given several times none [[ADDRESS][%INTERFACE]/]ITEM[,ITEM]... with ITEM one of   80          a port   80-90       ports   8080:80     a port, to another one of the guest; ranges likewise   80:ADDRESS[/PORT]  a port, to another address behind the guest   ~85         not this port, not these ports   all         every port that is free and not ephemeral   auto        ports (of this SPEC) while the guest listens on them default: auto' -r -f
complete -c usernet -s u -l udp-ports -d 'UDP ports of the host that lead to the guest default: auto' -r -f
complete -c usernet -s T -l tcp-ns -d 'TCP ports of the guest\'s loopback that lead to the host\'s; SPEC without an address default: auto' -r -f
complete -c usernet -s U -l udp-ns -d 'UDP ports of the guest\'s loopback that lead to the host\'s; SPEC without an address default: auto' -r -f
complete -c usernet -l userns -d 'User namespace to join' -r -F
complete -c usernet -l netns -d 'Network namespace of the guest; a name stands for /run/netns/NAME' -r -F
complete -c usernet -l ns-mac-addr -d 'Link-layer address of the guest\'s interface' -r -f
complete -c usernet -s d -l debug -d 'Tell everything, with times, on standard error'
complete -c usernet -l trace -d 'As --debug, and a line for every packet and event'
complete -c usernet -s q -l quiet -d 'Tell warnings and errors only'
complete -c usernet -s f -l foreground -d 'Stay in the foreground; messages go to standard error'
complete -c usernet -s e -l stderr -d 'Accepted for old callers, does nothing'
complete -c usernet -s h -l help -d 'Show this text'
complete -c usernet -l version -d 'Show the version'
complete -c usernet -l dhcp-dns -d 'Tell the guest of name servers, by DHCP, DHCPv6 and router advertisements'
complete -c usernet -l dhcp-search -d 'Tell the guest of search domains, likewise'
complete -c usernet -l no-tcp -d 'No TCP'
complete -c usernet -l no-udp -d 'No UDP'
complete -c usernet -l no-icmp -d 'No ICMP and ICMPv6, neighbour discovery included'
complete -c usernet -l no-dhcp -d 'No answers to DHCP'
complete -c usernet -l no-ndp -d 'No answers to neighbour discovery'
complete -c usernet -l no-dhcpv6 -d 'No answers to DHCPv6'
complete -c usernet -l no-ra -d 'No router advertisements'
complete -c usernet -l freebind -d 'Ports may be published on addresses that the host does not have'
complete -c usernet -l no-map-gw -d 'The gateway is not the guest\'s name for the host\'s loopback address'
complete -c usernet -l chroot-fallback -d 'Use chroot where the root file system cannot be exchanged'
complete -c usernet -s 4 -l ipv4-only -d 'IPv4 only'
complete -c usernet -s 6 -l ipv6-only -d 'IPv6 only'
complete -c usernet -l host-lo-to-ns-lo -d 'Connections to the host\'s loopback arrive on the guest\'s'
complete -c usernet -l netns-only -d 'Join and make no user namespace; implied by --netns without --userns'
complete -c usernet -l no-netns-quit -d 'Stay when the path of the network namespace is gone'
complete -c usernet -l no-pidns -d 'The command is not put in a new process namespace'
complete -c usernet -l config-net -d 'Configure the guest\'s interface'
complete -c usernet -l no-copy-routes -d 'Deprecated: of the routes, only the default one is copied'
complete -c usernet -l no-copy-addrs -d 'Deprecated: one address is copied'
complete -c usernet -l no-splice -d 'Loopback connections go through the guest\'s interface too'
complete -c usernet -l splice-only -d 'Loopback connections only, and no interface'
