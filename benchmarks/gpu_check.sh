#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one command: the tests on the real CuPy, then the measurements.
#
#     python -m pip install "minicnn[gpu,test]"
#     benchmarks/gpu_check.sh [FOLDER for what is written, default output/gpu_check]
#
# Stops at the first failing test, so that nothing is measured that computes something else.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-output/gpu_check}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.txt"
python -c "import cupy; cupy.show_config()" | tee -a "$out/gpu.txt"

echo "== the tests of layers, kernels and models on the GPU"
python -m pytest --device gpu -q -x 2>&1 | tee "$out/tests.txt"

echo "== the same network on both devices"
python examples/cpu_vs_gpu.py --device gpu --output "$out" 2>&1 | tee "$out/cpu_vs_gpu.txt"

echo "== the training step as a CUDA graph: the same losses, and the time of both"
python benchmarks/cuda_graph.py 2>&1 | tee "$out/cuda_graph.txt"

echo "== measurements"
python benchmarks/kernels.py --device gpu --output "$out/kernels.json" 2>&1 | tee "$out/kernels.txt"
python benchmarks/crossing.py --output "$out/crossing.json" 2>&1 | tee "$out/crossing.txt"
python benchmarks/models.py --device gpu --peers torch --output "$out/models.json" 2>&1 | tee "$out/models.txt"
python benchmarks/scaling.py --device gpu --output "$out/scaling.json" 2>&1 | tee "$out/scaling.txt"

echo "== whole trainings: the accuracy on both devices, and the CIFAR-10 network"
python benchmarks/fashion_mnist.py --model cnn --device both --seeds 0 1 2 --output "$out" 2>&1 | tee "$out/accuracy.txt"
for flag in "" --augment; do
    python examples/train_cifar10.py --device gpu $flag --output "$out/cifar10$flag" --record "$out/cifar10$flag.json" 2>&1 \
        | tee "$out/cifar10$flag.txt"
done
