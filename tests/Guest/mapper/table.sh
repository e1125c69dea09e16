# Runs when server $2 of supervisor $1 is about to load the table that maps the device to the base, and has released the base for that. $3
# is a loop device over the base.
. /common.sh
server=$1
next=$2
looped=$3
rivals=100
kill -STOP "$server"
rivals "given up" given-up
kill -KILL "$next"
ended_process "$next"
rivals "given up, and killed" given-up
exit "$failed"
