#!/usr/bin/env bash
# A run on a Cloud TPU, one host or a slice of many: make it, set it up, run, delete it.
#
#   export TPU_NAME=srgan ZONE=europe-west4-a ACCELERATOR_TYPE=v6e-16 BUCKET=my-bucket SPOT=1
#   launch/tpu_vm.sh create                     # and wait until it is there
#   launch/tpu_vm.sh setup                      # after every change of the code, too
#   launch/tpu_vm.sh run --config=configs/srgan.py --workdir=bucket/runs/srgan
#   launch/tpu_vm.sh watch --config=...         # all three, and again when it was preempted
#   launch/tpu_vm.sh stop                       # the run saves and ends
#   launch/tpu_vm.sh delete
#   DRY_RUN=1 launch/tpu_vm.sh ...              # only prints
#
# Before: gcloud, logged in, with a project, the TPU API and quota; what is run is HEAD of this
# repository, as committed. RUNTIME_VERSION has to fit the type (v2-alpha-tpuv6e for v6e,
# v2-alpha-tpuv5-lite for v5e; tpu-ubuntu2204-base for v2 to v4). GCLOUD_FLAGS is added to every call,
# such as --project=... or --tunnel-through-iap.
#
# BUCKET is mounted on every host as the folder `bucket`, where the workdir has to be if it is to
# outlive the TPU (pictures may be there too), with directories that can be renamed, which is how a
# checkpoint is finished. Its lock does not keep out other machines: start a run only once.
#
# To stop: `stop`; Ctrl-C only takes you away from it. To continue: the same `run` or `watch`. `run`
# ends when the run does, not with 0 if that is not complete. `watch` ends when it is complete, or
# was stopped, or failed, on a TPU that is in order; the TPU is not deleted then.
set -euo pipefail

die() {
    echo "launch/tpu_vm.sh: error: $*" >&2
    exit 2
}

run() { # or print
    if [[ ${DRY_RUN:-} ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

tpus() { # gcloud compute tpus, of the words up to the TPU's name
    # shellcheck disable=SC2086  # flags, one word each
    run gcloud compute tpus "$@" --zone="$ZONE" ${GCLOUD_FLAGS:-}
}

on() { # on worker $1, or on all, the shell's line $2
    tpus tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2"
}

state() {
    tpus queued-resources describe "$TPU_NAME" --format='value(state.state)' || echo UNKNOWN
}

create() {
    : "${ACCELERATOR_TYPE:?such as v6e-16}" "${RUNTIME_VERSION:=v2-alpha-tpuv6e}"
    tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
        --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" \
        ${SPOT:+--spot} || die "$TPU_NAME cannot be asked for"
    [[ ! ${DRY_RUN:-} ]] || return 0
    local now
    until now=$(state) && [[ $now == ACTIVE ]]; do
        [[ $now != FAILED ]] || die "$TPU_NAME: FAILED: see gcloud compute tpus queued-resources describe"
        [[ $now != SUSPEND* ]] || return 1 # preempted already
        sleep "${WAIT:-60}"
    done
}

setup() {
    local archive="${TMPDIR:-/tmp}/srgan_jax-$TPU_NAME.tar.gz"
    run git -C "$(dirname "$0")/.." archive --output="$archive" HEAD
    tpus tpu-vm scp "$archive" "$TPU_NAME:srgan_jax.tar.gz" --worker=all
    run rm "$archive"
    # The images' Python may be older than 3.11: uv brings one.
    # shellcheck disable=SC2016  # for the shells there
    on all 'set -e; mkdir -p srgan_jax; tar -xzf srgan_jax.tar.gz -C srgan_jax; cd srgan_jax
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
export PATH="$HOME/.local/bin:$PATH"
[ -d .venv ] || uv venv --python 3.12
uv pip install -e ".[tpu,tfds,vgg]"'
    [[ ${BUCKET:-} ]] || return 0
    # shellcheck disable=SC2016
    on all 'set -e; command -v gcsfuse >/dev/null && exit
repository="https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main"
key=/usr/share/keyrings/cloud.google.asc
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key >/dev/null
echo "deb [signed-by=$key] $repository" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
sudo apt-get -q update && sudo apt-get -qy install gcsfuse'
}

train() { # the arguments are for srgan_jax.main
    local line="cd srgan_jax && echo \$\$ >run.pid && . .venv/bin/activate"
    if [[ ${BUCKET:-} ]]; then
        line+=" && mkdir -p bucket && { mountpoint -q bucket"
        line+=" || gcsfuse --implicit-dirs --rename-dir-limit=100000 $BUCKET bucket; }"
    fi
    line+=" && exec launch/until_complete.sh --distributed=detect$(printf ' %q' "$@")"
    on all "$line"
}

watch() {
    local status
    if [[ ! ${DRY_RUN:-} && $(state 2>/dev/null) == ACTIVE ]]; then setup; else again; fi
    while true; do
        status=0
        train "$@" || status=$?
        ((status != 0)) || return 0
        sleep "${WAIT:-60}" # a preempted TPU says so a little later
        [[ $(state) != ACTIVE ]] || return "$status"
        again
    done
}

again() { # a new TPU in the place of what may be left of another
    delete || true
    until create; do
        sleep "${WAIT:-60}"
        delete
    done
    setup
}

delete() {
    tpus queued-resources delete "$TPU_NAME" --force --quiet
}

command=${1:-}
: "${TPU_NAME:?a name for the TPU}" "${ZONE:?such as europe-west4-a}"
case $command in
create | setup | delete) "$command" ;;
run) train "${@:2}" ;;
watch) watch "${@:2}" ;;
stop) on all "kill -TERM \$(cat srgan_jax/run.pid)" ;;
*) die "give one of create, setup, run, watch, stop, delete" ;;
esac
