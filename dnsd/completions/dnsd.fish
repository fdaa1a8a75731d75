# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dnsd_global_optspecs
    string join \n c/config= p/port= f/filter-search-domain= h/help V/version
end

function __fish_dnsd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_dnsd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_dnsd_using_subcommand
    set -l cmd (__fish_dnsd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c dnsd -n "__fish_dnsd_needs_command" -s c -l config -d 'The directory with a file for each network' -r -F
complete -c dnsd -n "__fish_dnsd_needs_command" -s p -l port -d 'The port to listen on, by UDP and TCP' -r
complete -c dnsd -n "__fish_dnsd_needs_command" -s f -l filter-search-domain -d 'Names that end in this are never forwarded' -r
complete -c dnsd -n "__fish_dnsd_needs_command" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_needs_command" -s V -l version -d 'Print version'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "run" -d 'Serve the directory, in the background'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "version" -d 'Print versions, as JSON'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "check" -d 'Explain what a configuration directory says, and what is wrong with it'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "query" -d 'Answer a question as the daemon would, and say why'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "stats" -d 'Ask the running daemon of a directory what it does: queries, servers, networks, what fails most'
complete -c dnsd -n "__fish_dnsd_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c dnsd -n "__fish_dnsd_using_subcommand run" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_using_subcommand version" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_using_subcommand check" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_using_subcommand query" -l from -d 'Who asks' -r
complete -c dnsd -n "__fish_dnsd_using_subcommand query" -l at -d 'Which of our addresses is asked; else that of the first network of the asker, or of all if it is in none' -r
complete -c dnsd -n "__fish_dnsd_using_subcommand query" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_using_subcommand stats" -l json -d 'Print a JSON document'
complete -c dnsd -n "__fish_dnsd_using_subcommand stats" -s h -l help -d 'Print help'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "run" -d 'Serve the directory, in the background'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "version" -d 'Print versions, as JSON'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "check" -d 'Explain what a configuration directory says, and what is wrong with it'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "query" -d 'Answer a question as the daemon would, and say why'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "stats" -d 'Ask the running daemon of a directory what it does: queries, servers, networks, what fails most'
complete -c dnsd -n "__fish_dnsd_using_subcommand help; and not __fish_seen_subcommand_from run version check query stats help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
