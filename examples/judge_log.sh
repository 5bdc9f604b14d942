#!/usr/bin/env bash
# Judge a load log from elsewhere: judge_log.sh LOG [flags of `loadcheck check`, such as --max-seq-length 1024]
# Exit codes: 0 every figure is in range, 1 a figure is not, or the load failed, 2 this is not a load log, or none was named.
set -u
if [ $# = 0 ]; then
  echo "name a log: judge_log.sh LOG [flags of loadcheck check]" >&2
  exit 2
fi
log=$1
shift
loadcheck=${LOADCHECK:-.venv/dev/bin/loadcheck}
"$loadcheck" check "$log" "$@"
code=$?
case $code in
0) echo "PASS: this is what the model prints on that card" ;;
1) echo "FAIL: the lines above name each figure, the line of the log and the fix" >&2 ;;
*) echo "$log could not be judged" >&2 ;;
esac
exit "$code"
