#compdef buildctl
# zsh completion for buildctl: reads the commands and options from buildctl's help.

local word
local -a commands names

case $words[CURRENT-1] in
    --progress) compadd auto plain tty rawjson; return ;;
    --log-format) compadd json text; return ;;
    --frontend) compadd dockerfile.v0 gateway.v0; return ;;
    --allow) compadd network.host security.insecure device; return ;;
    --tlscacert|--tlscert|--tlskey|--trace|--metadata-file|--source-policy-file|--ref-file) _files; return ;;
    --tlsdir|--root) _files -/; return ;;
esac

for word in ${words[2,CURRENT-1]}; do
    case $word in
        build|b|du|prune|prune-histories|debug) commands+=($word) ;;
        [a-z]*) [[ $commands[1] == debug ]] && commands+=($word) ;;
    esac
done

# The entries are name:description.
if [[ $PREFIX == -* ]]; then
    names=(${(f)"$(buildctl $commands --help 2>/dev/null | sed -n 's/^   \(--[a-z-]*\).*   *\(.*\)/\1:\2/p')"})
    _describe option names
else
    names=(${(f)"$(buildctl $commands --help 2>/dev/null | sed -n '/^COMMANDS:/,/^$/s/^   \([a-z-]*\)[^ ]*\( [a-z]\)\{0,1\}  *\(.*\)/\1:\3/p')"})
    _describe command names
fi
