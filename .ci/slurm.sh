#!/usr/bin/env bash
# launch/slurm.sbatch under a real Slurm: one node, this machine, two tasks on its CPU.
#
#   .ci/slurm.sh
#
# Before: `python` has the package, and Debian's slurm-wlm and munge are installed; with CI=true
# they are installed here. Slurm's daemons have ports of their own, and all files are below one
# temporary folder, which is removed with everything that was started. One to four minutes. Status
# 77 and a line where Slurm cannot be had or started.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin"

skip() {
    echo "slurm: skipped: $*"
    exit 77
}
fail() {
    echo "slurm: failed: $*"
    tail -n 50 "$work"/*.log
    exit 1
}
until_true() { # within $1 seconds, the command that follows
    local last=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < last)) || return 1
        sleep 0.2
    done
}

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
    [[ ${CI:-} ]] || skip "no Slurm: apt-get install slurm-wlm munge"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
        --no-install-recommends slurm-wlm munge; } >/dev/null 2>&1 || skip "it cannot be installed"
fi
((EUID == 0)) || skip "slurmd needs root"

work=$(mktemp -d)
daemons=()
are_no_jobs() { [[ -z $(squeue --noheader) ]]; }
clean_up() {
    if ((${#daemons[@]} > 1)); then
        scancel --quiet --user=root 2>/dev/null || true
        until_true 40 are_no_jobs || true
    fi
    kill "${daemons[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap clean_up EXIT

chmod 755 "$work"
mkdir "$work/state" "$work/spool"
head -c 64 /dev/urandom >"$work/munge.key"
chmod 600 "$work/munge.key"
read -r control_port node_port < <(python - <<'END'
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
END
)
host=$(hostname -s)
export SLURM_CONF=$work/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control_port
SlurmdPort=$node_port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
END

munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge.socket" \
    --pid-file="$work/munge.pid" --log-file="$work/munge.log" --seed-file="$work/munge.seed" \
    >/dev/null 2>&1 &
daemons+=($!)
until_true 10 test -S "$work/munge.socket" || skip "munged does not start here"
slurmctld -D >"$work/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -N localhost >"$work/slurmd.log" 2>&1 &
daemons+=($!)
is_idle() { [[ $(sinfo --noheader --format=%T) == idle ]]; }
until_true 30 is_idle || { tail -n 20 "$work"/*.log && skip "Slurm's daemons do not start here"; }
sinfo --version

# Very small networks on the quickstart's pictures; programs are compiled once.
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 XLA_FLAGS=--xla_backend_optimization_level=0
export JAX_COMPILATION_CACHE_DIR=$work/cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 XDG_CACHE_HOME=$work/xdg
steps=400
config=(--config=configs/quickstart.py --config.data.batch_size=4 --config.data.crop=32
    --config.generator.blocks=1 --config.generator.channels=8 --config.gan.steps=0
    "--config.pretrain.steps=$steps" --config.log.every_steps=20 --config.checkpoint.every_steps=100)
submit() {
    sbatch --parsable --ntasks-per-node=2 --output="$work/$1.log" launch/slurm.sbatch \
        "${config[@]}" --workdir="$work/$1" "${@:2}"
}
told() { scontrol show job "$job" | grep -o "\b$1=[^ ]*" | head -n1 | cut -d= -f2; } # a field
is() { [[ $(told "$1") == "$2" ]]; }
says() { (($(grep -c "$1" "$work/run.log") >= $2)); } # line $1 at least $2 times
trains() { # in start $1, which has told of steps after its compilation
    [[ $(told Restarts) == $(($1 - 1)) ]] && says "compiled in" "$1" &&
        grep -n "compiled in\|steps/s" "$work/run.log" | tail -n1 | grep -q "steps/s"
}

echo "== a run that is stopped, by a signal and by Slurm"
job=$(submit run)
until_true 120 trains 1 || fail "it does not train"
scancel --signal=TERM "$job"
until_true 60 is Restarts 1 || fail "it does not requeue itself after a signal"
says "stopped after step" 1 || fail "it did not save"
until_true 120 trains 2 || fail "it does not go on after a signal"
says "continuing after step" 1 || fail "it has begun again"
scontrol requeue "$job" # as preemption does
until_true 60 is Restarts 2 || fail "Slurm does not requeue it"
until_true 120 trains 3 || fail "it does not go on after a preemption"
says "continuing after step" 2 || fail "it has begun again"
until_true 120 is JobState COMPLETED || fail "it does not end"
grep -v "steps/s" "$work/run.log"
for file in results.json srresnet.safetensors panel.png; do
    [[ -e $work/run/$file ]] || fail "$file is not there"
done
python - "$work/run/metrics.jsonl" "$steps" <<'END' || fail "metrics.jsonl is not that of one run"
import json, sys
logged = [json.loads(line)["step"] for line in open(sys.argv[1]) if '"loss"' in line]
assert logged == list(range(20, int(sys.argv[2]) + 1, 20)), logged
END

echo "== a run with an error ends, and is not requeued"
job=$(submit wrong --config.data.batch_size=3)
until_true 60 is JobState FAILED || fail "it does not fail"
is Restarts 0 || fail "it was requeued"
cat "$work/wrong.log"
echo "slurm: passed"
