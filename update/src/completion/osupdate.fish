# fish completion for osupdate. The program itself knows what can follow.

function __osupdate_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    $words[1] complete -- $words (commandline --current-token --cut-at-cursor) 2>/dev/null
end

complete --command osupdate --no-files --keep-order --arguments '(__osupdate_complete)'
