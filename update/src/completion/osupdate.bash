# bash completion for osupdate. The program itself knows what can follow.

_osupdate() {
    local line=${COMP_LINE:0:COMP_POINT} words=() candidates=() i word current glued
    # Words as the program will get them: bash also splits at the characters in COMP_WORDBREAKS, as in docker://host.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        glued=
        [[ $i -gt 0 && $line != [[:blank:]]* ]] && glued=yes
        line=${line#"${line%%[![:blank:]]*}"}
        word=${COMP_WORDS[i]}
        [[ $i -eq $COMP_CWORD ]] && word=$line
        line=${line#"$word"}
        if [[ $glued ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
    current=${words[${#words[@]} - 1]}

    local candidate prefix=
    # What bash takes for the word to replace begins after the last of these.
    [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && prefix=${current%"${current##*:}"}
    [[ $COMP_WORDBREAKS == *=* && $current == -*=* && ! $prefix ]] && prefix=${current%%=*}=
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        COMPREPLY+=("${candidate#"$prefix"}")
    done < <("${words[0]}" complete -- "${words[@]}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -F _osupdate osupdate
