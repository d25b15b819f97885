#!/usr/bin/env bash
# One process of a run, for what takes status 0 for the end: Kubernetes, SkyPilot, tpu_vm.sh.
#
#   launch/until_complete.sh --config=... --workdir=...
#   DRY_RUN=1 launch/until_complete.sh --config=... --workdir=...            # only prints
#
# Before: `python` has the package, and every process sees the workdir, such as a mounted bucket,
# given as --workdir=DIR in one word. A run that is stopped by a signal saves and has status 0, and
# would not be started again. Here it has 75 ("try again") unless it is complete, which it is when
# there is a results.json in the workdir.
#
# To stop: SIGTERM, which is handed on. To continue: the same command.
set -euo pipefail

workdir=
for argument in "$@"; do
    [[ $argument != --workdir=* ]] || workdir=${argument#*=}
done
if [[ ! $workdir ]]; then
    echo "launch/until_complete.sh: error: --workdir=DIR is missing" >&2
    exit 2
fi

set -- python -m srgan_jax.main "$@"
if [[ ${DRY_RUN:-} ]]; then
    printf '%q ' "$@" && echo
    exit
fi

"$@" &
process=$!
stopped=
trap 'stopped=yes; trap "" INT TERM; kill -TERM "$process"' INT TERM
status=0
wait "$process" || status=$?
if [[ $stopped ]]; then # which ended that `wait`
    status=0
    wait "$process" || status=$?
fi
if ((status == 0)) && [[ ! -e $workdir/results.json ]]; then
    echo "launch/until_complete.sh: not complete: to be started again" >&2
    exit 75
fi
exit "$status"
