#!/usr/bin/env bash
# Several processes of one run on this machine: one a GPU, or some on the CPU to try it out.
#
#   launch/local.sh --config=configs/srgan.py --workdir=runs/srgan          # as many as GPUs
#   JAX_PLATFORMS=cpu launch/local.sh -n 2 --config=configs/quickstart.py --workdir=runs/two
#   DRY_RUN=1 launch/local.sh -n 4 --config=... --workdir=...               # only prints
#
# Before: the package is installed, and `python` is the one that has it. One process uses all GPUs
# of a machine, too: this is for one process each, and for trying out what several hosts do.
#
# -n N, which comes first, is the number of processes: by default that of the GPUs that
# CUDA_VISIBLE_DEVICES or nvidia-smi tell of, if several, else 2. Each gets one GPU. PORT is where
# the first one listens, by default a free port. The output of the first comes as it is, that of
# the others, which is little, behind "[1] " and so on.
#
# To stop: Ctrl-C or SIGTERM, once; the run saves, and all end with status 0. A second one kills
# them. To continue: the same command. If a process fails, so does this; the others have GRACE
# seconds (60) to notice it and say so, and are then killed.
set -euo pipefail

die() {
    echo "launch/local.sh: error: $*" >&2
    exit 2
}

number=
if [[ ${1:-} == -n ]]; then
    number=${2:-}
    [[ $number =~ ^[1-9][0-9]*$ ]] || die "-n $number: must be a whole number from 1"
    shift 2
fi

gpus=()
if [[ ${JAX_PLATFORMS:-} != cpu ]]; then
    if [[ -v CUDA_VISIBLE_DEVICES ]]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
    fi
fi
: "${number:=$((${#gpus[@]} > 1 ? ${#gpus[@]} : 2))}"
if ((${#gpus[@]} > 0 && ${#gpus[@]} < number)); then
    die "$number processes, but ${#gpus[@]} GPU(s): give a smaller -n, or JAX_PLATFORMS=cpu"
fi

free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
port=${PORT:-$(python -c "$free_port")}

set_command() { # of process $1, whose arguments follow
    command=(env "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$number"
        "JAX_PROCESS_ID=$1" ${gpus[0]:+"CUDA_VISIBLE_DEVICES=${gpus[$1]}"})
    shift
    command+=(python -m srgan_jax.main "$@")
}

if [[ ${DRY_RUN:-} ]]; then
    for ((i = 0; i < number; i++)); do
        set_command "$i" "$@"
        printf '%q ' "${command[@]}" && echo
    done
    exit
fi

send() { # signal $1 to the processes that are left; their parents hand it on
    local left
    left=$(jobs -pr)
    # shellcheck disable=SC2086  # one word a process
    [[ -z $left ]] || kill -s "$1" $left 2>/dev/null || true
}
signalled=
# shellcheck disable=SC2317,SC2329  # called by a trap
stop() {
    if [[ $signalled ]]; then send KILL; else send TERM; fi
    signalled=yes
}
trap stop INT TERM HUP
trap 'send KILL' EXIT

set -m # a process group for each, so that Ctrl-C comes once, from here
pids=()
for ((i = 0; i < number; i++)); do
    [[ -z $signalled ]] || break
    set_command "$i" "$@"
    if ((i == 0)); then
        "${command[@]}" </dev/null &
    else
        "${command[@]}" </dev/null > >(exec sed -u "s/^/[$i] /" >&2) 2>&1 &
    fi
    pids+=($!)
done
set +m

status=0 failed_at=
while ((${#pids[@]})); do
    sleep 0.2 || true
    left=" $(jobs -pr | tr '\n' ' ')"
    for i in "${!pids[@]}"; do
        [[ $left != *" ${pids[i]} "* ]] || continue
        wait "${pids[i]}" || { status=$? && : "${failed_at:=$SECONDS}"; }
        unset "pids[i]"
    done
    if [[ $failed_at ]] && ((SECONDS - failed_at >= ${GRACE:-60})); then
        send KILL
    fi
done
exit "$status"
