#!/bin/bash
# From the root of a checkout on a file system that all hosts share, with tilewise on the PATH, at the same place everywhere:
#   deploy/ssh.sh "host1 host2" run JOB.yaml --set output.path=/shared/out/scene
# WORKERS: how many on each host (4), MEMORY: the limit of each (4GiB), RESOURCES: what each offers (GPU=1), SSH: the command (ssh).
set -eu
hosts=$1
shift
source deploy/scheduler.sh

# A terminal, so that a worker ends with its connection.
for host in $hosts; do
  ${SSH:-ssh} -tt "$host" "cd '$PWD' && DASK_CONFIG='$DASK_CONFIG' '$DASK' worker '$address' --nworkers ${WORKERS:-4} --nthreads 1 \
    --memory-limit ${MEMORY:-4GiB} --no-dashboard --death-timeout 60 --local-directory /tmp $interface ${RESOURCES:+--resources $RESOURCES}" \
    < /dev/null > "$log-$host.log" 2>&1 &
done

tilewise "$@" --scheduler "$address"
