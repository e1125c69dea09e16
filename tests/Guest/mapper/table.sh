# Runs while the server $2 of the supervisor $1 is about to put the mapped device on the base, which it has given up for that; $3 is a loop device over it.
. /common.sh
server=$1
next=$2
looped=$3
rivals=100
kill -STOP "$server"
rivals "given up" given-up
kill -KILL "$next"
nobody "$next"
rivals "given up, and killed" given-up
exit "$failed"
