#!/usr/bin/env bash
# Judge a load log from elsewhere: judge_log.sh LOG [flags of `loadcheck check`, such as --max-seq-length 1024]
# Exit code 0: every figure is in range. 1: it is not, or the load failed. 2: no load log.
set -u
log=${1:?which log? judge_log.sh LOG [flags of loadcheck check]}
shift
loadcheck=${LOADCHECK:-.venv/dev/bin/loadcheck}
"$loadcheck" check "$log" "$@"
code=$?
case $code in
0) echo "the log is what this model prints on that card" ;;
1) echo "see the lines above: each names the figure, the line of the log and the fix" >&2 ;;
*) echo "$log could not be judged" >&2 ;;
esac
exit "$code"
