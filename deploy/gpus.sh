#!/bin/sh
# One machine with several GPUs: a scheduler, one worker for each GPU, and the sweep. All end together.
#   sh deploy/gpus.sh train 'iteration_*' --seeds 0-9
#   sh deploy/gpus.sh sweep iteration_10_one_cycle --set learning_rate=0.1,0.3
set -eu
address=tcp://127.0.0.1:8786
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader)

dask scheduler --host 127.0.0.1 --port 8786 --preload mnist_lib.pipeline.cluster &
started=$!
trap 'kill $started 2>/dev/null' EXIT
trap 'exit 130' INT TERM
for gpu in $gpus; do
    # The worker sees one GPU, and offers it: a run asks for one, so no GPU is shared.
    CUDA_VISIBLE_DEVICES=$gpu dask worker $address --nthreads 1 --resources GPU=1 --preload mnist_lib.pipeline.cluster &
    started="$started $!"
done
case ${1-} in train | sweep) ;; *) set -- train "$@" ;; esac
mnist-lib "$@" --device cuda --scheduler $address
