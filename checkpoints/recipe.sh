#!/bin/sh
# The training of checkpoints/p_ieanet.safetensors, from random weights to the average that is shipped.
#
#     sh checkpoints/recipe.sh photos/train sets runs/shipped          add "--device cpu --threads 2" or "--compile" at the end as you like
#
# `sets` holds photos, photos-mixed (val), stacks, stacks-frame and hdri (train and val), made as docs/data.md says, hdri with --views 18 and 15.
set -e
photos=$1 sets=$2 out=$3
shift 3

train() {
    name=$1
    shift
    python train_wavelet.py --photos "$photos" "$sets/stacks/train.csv" \
        --data "$sets/stacks" --train-csv "$sets/stacks/train.csv" --val-csv "$sets/stacks/val.csv" "$@" \
        --data "$sets/photos" --val-csv "$sets/photos/val.csv" --data "$sets/photos-mixed" --val-csv "$sets/photos-mixed/val.csv" \
        --val-limit 60 --jitter 1 --amp bf16 --out "$out/$name" --resume auto
}

# e: long, on everything.
train e --data "$sets/hdri" --train-csv "$sets/hdri/train.csv" --val-csv "$sets/hdri/val.csv" --mix 10 3 3 --epochs 90 --val-every 8 \
    --config dropout=0 "$@"
# h: from e, fewer photographs, brackets against both references, strong dropout on what the level is told from; its last weights count.
train h --data "$sets/stacks-frame" --train-csv "$sets/stacks-frame/train.csv" --val-csv "$sets/stacks-frame/val.csv" \
    --data "$sets/hdri" --train-csv "$sets/hdri/train.csv" --val-csv "$sets/hdri/val.csv" --mix 6 4 2 4 \
    --init "$out/e/best.safetensors" --config dropout=0.5 --loss smooth_l1 --steps 1600 --lr 5e-4 --warmup 50 --weight-decay 0.1 --ema 0.99 \
    --sizes 128 --late-sizes --val-every 1000000 "$@"
# The mean of the two is better on brackets than e and better on photographs than h.
python -m models.average "$out/e/best.safetensors" "$out/h/best.safetensors" --out "$out/p_ieanet.safetensors"
