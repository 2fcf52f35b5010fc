#!/bin/sh
# The training of checkpoints/p_ieanet.safetensors, from random weights.
#
#     sh checkpoints/recipe.sh photos/train sets runs/shipped          add "--device cpu --workers 0" or "--compile" at the end as you like
#     PYTHON="torchrun --standalone --nproc_per_node=2" sh checkpoints/recipe.sh ...      two processes, as ours was
#
# `sets` holds stacks, stacks-frame, photos, photos-mixed, photos-bracket, hdri and hdri-fused (train and val), made as docs/data.md says,
# photos-bracket with --variant bracket, hdri with --views 18 and 15, hdri-fused with --reference fused --views 150 and 15.
set -e
trap 'exit 130' INT TERM  # a training that is stopped ends well; what builds on it must not start
photos=$1 sets=$2 out=$3
shift 3

train() {  # name, sets, pictures of each source in a batch (what --photos names first); flags
    name=$1 names=$2 mix=$3
    shift 3
    for set in $names; do
        set -- "$@" --data "$sets/$set" --train-csv "$sets/$set/train.csv" --val-csv "$sets/$set/val.csv"
    done
    # The last weights count.
    ${PYTHON:-python} train_wavelet.py --mix $mix --jitter 1 --amp bf16 --cache --weight-decay 0.05 \
        --sizes 128 --late-sizes 256 --val-every 1000000 --val-limit 60 --out "$out/$name" --resume auto "$@"
}
all="stacks photos stacks-frame hdri hdri-fused photos-bracket photos-mixed"
# A: everything, references of brackets as photographs too. B: from A, more photographs, nearly whole pictures.
train A "$all" "3 2 2 1 2 3 2 1" --photos "$photos" "$sets/stacks/train.csv" --steps 4400 --lr 1e-3 --min-window 0.6 "$@"
train B "$all" "4 2 4 1 1 2 1 1" --photos "$photos" "$sets/stacks/train.csv" --init "$out/A/best.safetensors" --steps 2070 --lr 6e-4 --warmup 50 \
    --ema 0.995 --min-window 0.7 --seed 1 "$@"
# The mean is nearly A on brackets, nearly B on photographs.
python -m models.average "$out/A/best.safetensors" "$out/B/best.safetensors" --out "$out/AB.safetensors"
# G: without real brackets, whose cameras are few: photographs, panoramas and mixed exposure gain. Again the mean keeps most of both.
train G "photos hdri hdri-fused photos-bracket photos-mixed" "3 2 3 4 2 2" --photos "$photos" --init "$out/AB.safetensors" --steps 2900 --lr 4e-4 \
    --warmup 50 --ema 0.995 --min-window 0.7 --seed 8 "$@"
python -m models.average "$out/AB.safetensors" "$out/G/best.safetensors" --out "$out/p_ieanet.safetensors"
