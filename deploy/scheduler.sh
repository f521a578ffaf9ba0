# Sourced by slurm.sbatch and ssh.sh: a scheduler on this host, with a certificate of its own, that ends with the script.
# Sets $DASK_CONFIG, a folder that all hosts must reach, $address, and $DASK, the command.
# Sets $log too, what names of log files begin with. TILEWISE_INTERFACE names the network to listen on, such as ib0 or lo.
log=tilewise-${SLURM_JOB_ID:-$$}
DASK=$(command -v dask)
interface=${TILEWISE_INTERFACE:+--interface $TILEWISE_INTERFACE}
DASK_CONFIG=$(mktemp -d "$PWD/.tilewise-XXXXXX")
export DASK_CONFIG
bash deploy/certificate.sh "$DASK_CONFIG"

"$DASK" scheduler --protocol tls --port 0 --no-dashboard --dashboard-address 127.0.0.1:0 $interface \
  --scheduler-file "$DASK_CONFIG/scheduler.json" > "$log-scheduler.log" 2>&1 &
scheduler=$!
trap 'kill $(jobs -p) 2> /dev/null; wait; rm -rf "$DASK_CONFIG"' EXIT
trap 'exit 143' TERM

until [ -s "$DASK_CONFIG/scheduler.json" ]; do
  kill -0 $scheduler 2> /dev/null || { echo "the scheduler did not start; see $log-scheduler.log" >&2; exit 2; }
  sleep 0.2
done
address=$(sed -n 's/.*"address": "\([^"]*\)".*/\1/p' "$DASK_CONFIG/scheduler.json")
