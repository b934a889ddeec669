#!/usr/bin/env bash
# What needs an NVIDIA GPU, in stages of at most 9 minutes each: the tests on the real CuPy, then the measurements.
#
#     benchmarks/gpu_check.sh STAGE FOLDER [--quick]
#
#     tests     every test of kernels, layers and models that can run on a device
#     kernels   each kernel beside what the GPU could do at best
#     models    training steps beside PyTorch's, and the step as a CUDA graph
#     cifar     the documents' CIFAR-10 network, 25 epochs: needs MINICNN_DATA, a folder with the data set
#     rest      from which size on the GPU is the faster one; batch sizes; the same network on both devices
#
# It needs python3 with CuPy, minicnn's own dependencies and pytest (and PyTorch, for `models`), and no network. FOLDER
# gets at most 8 files a stage. The exit status is not 0 where anything failed, or took too long, or there is no GPU.
# --quick: a dry run, with few samples; its times mean nothing.
set -euo pipefail
usage="usage: gpu_check.sh tests|kernels|models|cifar|rest FOLDER [--quick]"
stage=${1:?$usage} out=${2:?$usage} quick=${3:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} MPLBACKEND=Agg
deadline=$((SECONDS + 530))
scratch=$(mktemp -d) # for models, and for pictures that the records can be drawn into again
trap 'rm -rf "$scratch"' EXIT

run() { # NAME COMMAND…: what it prints goes to FOLDER/NAME.txt, too
    local name=$1
    shift
    local left=$((deadline - SECONDS)) # `timeout 0` would wait for ever
    ((left > 0)) || { echo "no time is left for: $*" >&2 && exit 1; }
    echo "== $*"
    timeout --kill-after 5 "$left" "$@" 2>&1 | tee "$out/$name.txt"
}

python3 -c "import minicnn; minicnn.device('gpu')" # or it says why there is none
{
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2> /dev/null || echo "no nvidia-smi"
    python3 -c "import cupy; cupy.show_config()"
} > "$out/gpu.txt" 2>&1

case $stage in
    tests)
        first=(tests/test_kernels_conv.py tests/test_cuda_graph.py)
        many=()
        python3 -c "import xdist" 2> /dev/null && many=(-n 8)
        run tests_first python3 -m pytest --device gpu -q -x -p no:cacheprovider "${first[@]}"
        [ -n "$quick" ] || run tests python3 -m pytest --device gpu -q -p no:cacheprovider "${many[@]}"
        ;;
    kernels)
        run kernels python3 benchmarks/kernels.py --device gpu $quick --output "$out/kernels_gpu.json"
        ;;
    models)
        peers=""
        python3 -c "import torch" 2> /dev/null && peers=torch
        run models python3 benchmarks/models.py --device gpu --peers "$peers" $quick --output "$out/models_gpu.json"
        run cuda_graph python3 benchmarks/cuda_graph.py ${quick:+--steps 2}
        ;;
    cifar)
        options=(--epochs 25)
        [ -z "$quick" ] || options=(--dataset toy_color --epochs 1 --limit 256)
        run cifar10 python3 examples/train_cifar10.py --device gpu "${options[@]}" --output "$scratch" \
            --record "$out/cifar10_gpu.json"
        ;;
    rest)
        run cpu_vs_gpu python3 examples/cpu_vs_gpu.py --device gpu ${quick:+--steps 2} --output "$scratch" \
            --record "$out/cpu_vs_gpu.json"
        run scaling python3 benchmarks/scaling.py --device gpu $quick --output "$scratch/scaling_gpu.json"
        cp "$scratch/scaling_gpu.json" "$out"
        run crossing python3 benchmarks/crossing.py $quick --output "$scratch/crossing.json"
        cp "$scratch/crossing.json" "$out"
        ;;
    *)
        echo "$usage" >&2
        exit 2
        ;;
esac
