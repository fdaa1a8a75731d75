# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_netbackend_global_optspecs
    string join \n f/file= c/config= r/rootless= a/aardvark-binary= plugin-directory= firewall-driver= nft= h/help V/version
end

function __fish_netbackend_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_netbackend_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_netbackend_using_subcommand
    set -l cmd (__fish_netbackend_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c netbackend -n "__fish_netbackend_needs_command" -s f -l file -d 'Read the request from a file instead of standard input ("-")' -r -F
complete -c netbackend -n "__fish_netbackend_needs_command" -s c -l config -d 'The state directory; required by setup, teardown, update, gc and plan. The others look into /run/containers/networks without it, under "podman unshare" into the user\'s own' -r -F
complete -c netbackend -n "__fish_netbackend_needs_command" -s r -l rootless -d 'Whether the engine runs as an ordinary user' -r -f -a "true\t''
false\t''"
complete -c netbackend -n "__fish_netbackend_needs_command" -s a -l aardvark-binary -d 'The DNS responder; names are not resolved if there is none at this path, which may be empty' -r -F
complete -c netbackend -n "__fish_netbackend_needs_command" -l plugin-directory -d 'Where to look for plugins; can be given several times' -r -F
complete -c netbackend -n "__fish_netbackend_needs_command" -l firewall-driver -d 'Who filters packets: nftables, firewalld or none' -r
complete -c netbackend -n "__fish_netbackend_needs_command" -l nft -d 'Change the packet filter by this program (such as /usr/sbin/nft) instead of the kernel interface' -r -F
complete -c netbackend -n "__fish_netbackend_needs_command" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_needs_command" -s V -l version -d 'Print version'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "setup" -d 'Attach a container to networks. Prints what it got'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "teardown" -d 'Detach a container from networks'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "update" -d 'Change the DNS servers of a network whose containers run'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "create" -d 'Complete the description of a new network. Prints it'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "gc" -d 'Take away what a crashed engine left: containers that are gone, with their ports, rules and names, and networks without containers. Prints what that was'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "doctor" -d 'Tell what is broken, why, and what to do about it. Ends with 1 if anything is, with 2 if it cannot be told. Changes nothing'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "plan" -d 'Print what setup or teardown would do, and do nothing'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "inspect" -d 'Show what is on record of networks and containers, and what of it is on the host'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "topology" -d 'Draw networks, containers and published ports'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "record" -d 'Run a command such as podman, and record each call of a network backend that comes of it. The command and the backend notice nothing'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "replay" -d 'Carry out a recorded request on a throw-away host: show plan and reply, try the traffic, tear it down, and look for what is left. Also as an ordinary user'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "capture" -d 'Capture a container\'s traffic, as pcapng with the names of containers'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "schema" -d 'Print the JSON Schema of a document, or of all of them by their names'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "dhcp-proxy" -d 'Hold DHCP leases for containers'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "firewall-reload" -d 'Write all rules anew from what is on record, in one transaction'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "firewalld-reload" -d 'Write all rules anew now and whenever firewalld has been reloaded. Runs as long as the system bus'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "nftables-reload" -d 'Watch the packet filter, and write all rules anew when somebody takes some away. Runs until it is ended'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "version" -d 'Print versions, as JSON'
complete -c netbackend -n "__fish_netbackend_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netbackend -n "__fish_netbackend_using_subcommand setup" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand teardown" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand update" -l network-dns-servers -d 'Its DNS servers from now on, with commas; can be given several times. Nothing ("") removes them all' -r
complete -c netbackend -n "__fish_netbackend_using_subcommand update" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand create" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand gc" -l dry-run -d 'Only print what would be taken away'
complete -c netbackend -n "__fish_netbackend_using_subcommand gc" -l json -d 'As JSON instead of lines'
complete -c netbackend -n "__fish_netbackend_using_subcommand gc" -l force -d 'Also when this does not look like the network namespace of the bridges on record. In another one all would look dead'
complete -c netbackend -n "__fish_netbackend_using_subcommand gc" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand doctor" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and not __fish_seen_subcommand_from setup teardown help" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and not __fish_seen_subcommand_from setup teardown help" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and not __fish_seen_subcommand_from setup teardown help" -f -a "setup" -d 'Plan to attach a container'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and not __fish_seen_subcommand_from setup teardown help" -f -a "teardown" -d 'Plan to detach a container'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and not __fish_seen_subcommand_from setup teardown help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from setup" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from setup" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from teardown" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from teardown" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from help" -f -a "setup" -d 'Plan to attach a container'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from help" -f -a "teardown" -d 'Plan to detach a container'
complete -c netbackend -n "__fish_netbackend_using_subcommand plan; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netbackend -n "__fish_netbackend_using_subcommand inspect" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand topology" -l format -d 'The form' -r -f -a "svg\t'A drawing'
mermaid\t'A flow chart for Mermaid'
json\t'The graph, for programs that draw'"
complete -c netbackend -n "__fish_netbackend_using_subcommand topology" -l theme -d 'The ground of a drawing' -r -f -a "auto\t'As the viewer\'s user prefers'
light\t'Light'
dark\t'Dark'"
complete -c netbackend -n "__fish_netbackend_using_subcommand topology" -s o -l output -d 'Write to a file instead of standard output' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand topology" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netbackend -n "__fish_netbackend_using_subcommand record" -l backend -d 'The backend that is called in the end. Without it: the one that Podman is configured to call, else this program' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand record" -l call -d 'Be the one that engines call: the command is the arguments of the backend'
complete -c netbackend -n "__fish_netbackend_using_subcommand record" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand replay" -l backend -d 'Have another backend called instead of this program' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand replay" -l json -d 'As JSON instead of text'
complete -c netbackend -n "__fish_netbackend_using_subcommand replay" -l inside -d 'Be the first process of the throw-away host'
complete -c netbackend -n "__fish_netbackend_using_subcommand replay" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand capture" -s o -l output -d 'Write to a file instead of standard output, which must not be a terminal' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand capture" -s c -l count -d 'End after so many packets; else with a signal' -r
complete -c netbackend -n "__fish_netbackend_using_subcommand capture" -l filter -d 'Only these packets, such as "tcp and port 80", "host 10.88.0.2 or arp", "not (udp port 53)"' -r
complete -c netbackend -n "__fish_netbackend_using_subcommand capture" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netbackend -n "__fish_netbackend_using_subcommand dhcp-proxy" -s d -l dir -d 'The directory of the socket and of the file of leases' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand dhcp-proxy" -s u -l uds -d 'Not used' -r -F
complete -c netbackend -n "__fish_netbackend_using_subcommand dhcp-proxy" -s t -l timeout -d 'How many seconds a server has time to lease an address' -r
complete -c netbackend -n "__fish_netbackend_using_subcommand dhcp-proxy" -s a -l activity-timeout -d 'After how many seconds without leases and calls to end; 0 for never' -r
complete -c netbackend -n "__fish_netbackend_using_subcommand dhcp-proxy" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand firewall-reload" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand firewalld-reload" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand nftables-reload" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand version" -s h -l help -d 'Print help'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "setup" -d 'Attach a container to networks. Prints what it got'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "teardown" -d 'Detach a container from networks'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "update" -d 'Change the DNS servers of a network whose containers run'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "create" -d 'Complete the description of a new network. Prints it'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "gc" -d 'Take away what a crashed engine left: containers that are gone, with their ports, rules and names, and networks without containers. Prints what that was'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "doctor" -d 'Tell what is broken, why, and what to do about it. Ends with 1 if anything is, with 2 if it cannot be told. Changes nothing'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "plan" -d 'Print what setup or teardown would do, and do nothing'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "inspect" -d 'Show what is on record of networks and containers, and what of it is on the host'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "topology" -d 'Draw networks, containers and published ports'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "record" -d 'Run a command such as podman, and record each call of a network backend that comes of it. The command and the backend notice nothing'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "replay" -d 'Carry out a recorded request on a throw-away host: show plan and reply, try the traffic, tear it down, and look for what is left. Also as an ordinary user'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "capture" -d 'Capture a container\'s traffic, as pcapng with the names of containers'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "schema" -d 'Print the JSON Schema of a document, or of all of them by their names'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "dhcp-proxy" -d 'Hold DHCP leases for containers'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "firewall-reload" -d 'Write all rules anew from what is on record, in one transaction'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "firewalld-reload" -d 'Write all rules anew now and whenever firewalld has been reloaded. Runs as long as the system bus'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "nftables-reload" -d 'Watch the packet filter, and write all rules anew when somebody takes some away. Runs until it is ended'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "version" -d 'Print versions, as JSON'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and not __fish_seen_subcommand_from setup teardown update create gc doctor plan inspect topology record replay capture schema dhcp-proxy firewall-reload firewalld-reload nftables-reload version help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and __fish_seen_subcommand_from plan" -f -a "setup" -d 'Plan to attach a container'
complete -c netbackend -n "__fish_netbackend_using_subcommand help; and __fish_seen_subcommand_from plan" -f -a "teardown" -d 'Plan to detach a container'
