# Prints "FILE:LINE: N words" for every sentence of more than 35 words in the comments of its files: awk -v mark='//' (C#) or '#' (shell).
# LINE is where the sentence begins. A comment goes on over consecutive lines. A tag is one word, or the end of a sentence if it is a
# block. A list item begins a sentence; a row of a table (more than one blank between words) is one. <code> is not looked at.

function finish() {
    if (words > 35) printf "%s:%d: %d words: %s\n", name, first, words, substr(text, 1, 90)
    words = 0
    text = ""
}

function take(comment, i, n, parts) {
    if (comment ~ /^ *([-*]|[0-9]+\.) /) finish()
    gsub(/<(see|paramref|typeparamref) [^>]*>/, "TAG", comment)
    gsub(/<\/?(c|b|i|em|see)>/, "", comment)
    gsub(/<[\/]?[a-z]+[^>]*>/, " . ", comment)
    n = split(comment, parts, /[ \t]+/)
    for (i = 1; i <= n; i++) {
        if (parts[i] == "") continue
        if (parts[i] != ".") {
            if (words++ == 0) first = FNR
            text = text parts[i] " "
        }
        if (parts[i] ~ /[.:;?!][)"'`]*$/) finish()
    }
}

FNR == 1 { finish(); code = 0 }
{ name = FILENAME }
{
    line = $0
    sub(/^[ \t]+/, "", line)
    if (index(line, mark) != 1 || line ~ /^#!/) {
        finish()
        code = 0
        next
    }
    if (mark == "//") sub(/^\/\/+ ?/, "", line)
    else sub(/^#+ ?/, "", line)
    if (line ~ /<code>/) code = 1
    if (line ~ /^[ \t]*$/) finish()
    else if (!code) {
        row = line ~ /^   / || line ~ /[^ ]  +[^ ]/
        if (row) finish()
        take(line)
        if (row) finish()
    }
    if (line ~ /<\/code>/) code = 0
}
END { finish() }
