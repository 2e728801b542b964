# fish completion for buildctl: reads the commands and options from buildctl's help.

function __buildctl_help
    set -l commands
    for word in (commandline -opc)[2..]
        if contains -- $word build b du prune prune-histories debug
            set -a commands $word
        else if test "$commands[1]" = debug; and string match -qr '^[a-z][a-z-]*$' -- $word
            set -a commands $word
        end
    end
    buildctl $commands --help 2>/dev/null
end

# One line per command or option: name, tab, description.
function __buildctl_commands
    __buildctl_help | sed -n '/^COMMANDS:/,/^$/s/^   \([a-z-]*\)[^ ]*\( [a-z]\)\{0,1\}  *\(.*\)/\1\t\3/p'
end
function __buildctl_options
    __buildctl_help | sed -n 's/^   \(--[a-z-]*\).*   *\(.*\)/\1\t\2/p'
end

complete -c buildctl -f -n 'not string match -q -- "-*" (commandline -ct)' -a '(__buildctl_commands)'
complete -c buildctl -f -n 'string match -q -- "-*" (commandline -ct)' -a '(__buildctl_options)'
complete -c buildctl -l progress -x -a 'auto plain tty rawjson'
complete -c buildctl -l log-format -x -a 'json text'
complete -c buildctl -l frontend -x -a 'dockerfile.v0 gateway.v0'
complete -c buildctl -l allow -x -a 'network.host security.insecure device'
for option in tlscacert tlscert tlskey tlsdir trace metadata-file source-policy-file ref-file root
    complete -c buildctl -l $option -r -F
end
