#!/usr/bin/env bash
# Measures every published number again and writes results/*.json. Nothing else should run beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p results
for task in reach push push_long push_yaw avoid_reach avoid_push; do
  tolerance=()
  [ "$task" != push ] || tolerance=(--tolerance-cm 2)
  jepa-arm eval --task "$task" --episodes 100 --seed 0 --no-deadline "${tolerance[@]}" --json "results/eval_$task.json"
done
jepa-arm eval --task push --episodes 100 --no-deadline --blackout 50% 1 --no-baselines --json results/eval_push_blackout.json
jepa-arm eval --task push --episodes 100 --no-deadline --delay 200 --no-baselines --json results/eval_push_delay.json
for task in push push_yaw; do
  jepa-arm eval --task "$task" --episodes 50 --ros --tolerance-cm 2 --no-baselines --json "results/eval_${task}_ros.json"
done
for stage in plan stages encode sim ros; do
  jepa-arm bench "$stage" --json "results/bench_$stage.json"
done
jepa-arm bench surprise --episodes 50 --json results/bench_surprise.json
jepa-arm faults --json results/faults.json
