# bash completion for buildctl: reads the commands and options from buildctl's help.

_buildctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local -a commands=()
    local word help
    COMPREPLY=()

    # bash splits "--progress=pl" into three words.
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    case $prev in
        --progress) mapfile -t COMPREPLY < <(compgen -W "auto plain tty rawjson" -- "$cur"); return ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W "json text" -- "$cur"); return ;;
        --frontend) mapfile -t COMPREPLY < <(compgen -W "dockerfile.v0 gateway.v0" -- "$cur"); return ;;
        --allow) mapfile -t COMPREPLY < <(compgen -W "network.host security.insecure device" -- "$cur"); return ;;
        --tlscacert | --tlscert | --tlskey | --trace | --metadata-file | --source-policy-file | --ref-file)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --tlsdir | --root)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
    esac

    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            build | b | du | prune | prune-histories | debug) commands+=("$word") ;;
            *) [[ ${commands[0]-} == debug && $word =~ ^[a-z-]+$ && $word != -* ]] && commands+=("$word") ;;
        esac
    done

    help=$(buildctl "${commands[@]}" --help 2>/dev/null) || return
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(sed -n 's/^   \(-[^ ,]*\).*/\1/p' <<<"$help")" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$(sed -n '/^COMMANDS:/,/^$/s/^   \([a-z-]*\).*/\1/p' <<<"$help")" -- "$cur")
    fi
}
complete -F _buildctl buildctl
