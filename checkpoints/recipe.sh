#!/bin/sh
# The training of checkpoints/p_ieanet.safetensors, from random weights to the average that is shipped.
#
#     sh checkpoints/recipe.sh photos/train sets runs/shipped          add "--device cpu --threads 2" or "--compile" at the end as you like
#
# `sets` holds photos, photos-mixed, photos-bracket, stacks, stacks-frame, hdri and hdri-fused (train and val), made as docs/data.md says,
# photos-bracket with --variant bracket, hdri with --views 18 and 15, hdri-fused with --reference fused --views 150 and 15.
set -e
trap 'exit 130' INT TERM  # a training that is stopped ends well; what builds on it must not start
photos=$1 sets=$2 out=$3
shift 3

train() {  # name, sets to train on beside photographs and brackets, sets only to validate on, flags
    name=$1 trained=$2 watched=$3
    shift 3
    for set in stacks $trained; do
        set -- "$@" --data "$sets/$set" --train-csv "$sets/$set/train.csv" --val-csv "$sets/$set/val.csv"
    done
    for set in $watched; do
        set -- "$@" --data "$sets/$set" --val-csv "$sets/$set/val.csv"
    done
    python train_wavelet.py --photos "$photos" "$sets/stacks/train.csv" --val-limit 60 --jitter 1 --amp bf16 --warmup 50 \
        --out "$out/$name" --resume auto "$@"
}
last="--val-every 1000000"  # the last weights count

# e: long, on everything.
train e "hdri" "photos photos-mixed" --mix 10 3 3 --epochs 90 --val-every 8 --warmup 200 --config dropout=0 "$@"
# h: from e, fewer photographs, brackets against both references, strong dropout on what the level is told from.
train h "stacks-frame hdri" "photos photos-mixed" --mix 6 4 2 4 --init "$out/e/best.safetensors" --config dropout=0.5 --loss smooth_l1 --steps 1600 \
    --lr 5e-4 --weight-decay 0.1 --ema 0.99 --sizes 128 --late-sizes $last "$@"
# The mean of the two is better on brackets than e and better on photographs than h.
python -m models.average "$out/e/best.safetensors" "$out/h/best.safetensors" --out "$out/eh.safetensors"

# x, w: nearly whole pictures instead of parts, and the photographs' nine fixed exposures; w at the size at which pictures are judged.
train x "photos stacks-frame hdri" "photos-mixed" --mix 4 4 4 1 3 --init "$out/eh.safetensors" --config dropout=0.3 --steps 4000 --lr 5e-4 \
    --ema 0.997 --sizes 128 --late-sizes 256 --min-window 0.7 $last "$@"
train w "photos stacks-frame hdri" "photos-mixed" --mix 4 3 5 1 3 --init "$out/eh.safetensors" --config dropout=0.2 --steps 700 --lr 3e-4 \
    --ema 0.99 --sizes 256 --late-sizes --min-window 0.8 $last "$@"
python -m models.average "$out/eh.safetensors" "$out/x/best.safetensors" "$out/w/best.safetensors" --out "$out/n.safetensors"

# y: more brackets and dropout, as h. u: from y, as w. z: mixed exposure.
train y "photos stacks-frame hdri" "photos-mixed" --mix 3 4 4 2 3 --init "$out/n.safetensors" --config dropout=0.5 --loss smooth_l1 --steps 2000 \
    --lr 5e-4 --weight-decay 0.1 --ema 0.99 --sizes 128 --late-sizes --min-window 0.6 $last "$@"
train u "photos stacks-frame hdri" "photos-mixed" --mix 3 3 5 2 3 --init "$out/y/best.safetensors" --config dropout=0.3 --steps 600 --lr 3e-4 \
    --weight-decay 0.05 --ema 0.99 --sizes 256 --late-sizes --min-window 0.8 $last "$@"
train z "photos stacks-frame hdri photos-mixed" "" --mix 3 2 3 2 3 3 --init "$out/n.safetensors" --config dropout=0.3 --steps 2600 --lr 5e-4 \
    --weight-decay 0.05 --ema 0.995 --sizes 128 --late-sizes 256 --min-window 0.8 $last "$@"
python -m models.average "$out/u/best.safetensors" "$out/z/best.safetensors" "$out/n.safetensors" --out "$out/nuz.safetensors"

# p, q: brackets of panorama views beside the real ones, which are few; p as w, q as y.
train p "photos stacks-frame hdri hdri-fused photos-mixed" "" --mix 3 3 2 1 2 4 1 --init "$out/nuz.safetensors" --config dropout=0.3 --steps 1000 \
    --lr 4e-4 --weight-decay 0.05 --ema 0.99 --sizes 256 --late-sizes --min-window 0.8 $last "$@"
train q "photos stacks-frame hdri hdri-fused photos-mixed" "" --mix 3 3 2 1 3 3 1 --init "$out/nuz.safetensors" --config dropout=0.5 --loss smooth_l1 \
    --steps 2600 --lr 6e-4 --weight-decay 0.1 --ema 0.995 --sizes 128 --late-sizes --min-window 0.6 $last "$@"
python -m models.average "$out/p/best.safetensors" "$out/q/best.safetensors" "$out/nuz.safetensors" --out "$out/pqnuz.safetensors"

# r, s: brackets of photographs too; r as q, s as p.
train r "photos stacks-frame hdri hdri-fused photos-bracket photos-mixed" "" --mix 3 2 2 1 3 2 2 1 --init "$out/pqnuz.safetensors" --config dropout=0.5 \
    --loss smooth_l1 --steps 2600 --lr 6e-4 --weight-decay 0.1 --ema 0.995 --sizes 128 --late-sizes --min-window 0.6 --seed 4 $last "$@"
train s "photos stacks-frame hdri hdri-fused photos-bracket photos-mixed" "" --mix 3 3 2 1 2 2 2 1 --init "$out/pqnuz.safetensors" --config dropout=0.3 \
    --steps 1000 --lr 4e-4 --weight-decay 0.05 --ema 0.99 --sizes 256 --late-sizes --min-window 0.8 --seed 5 $last "$@"
# The mean, s twice, with .9 of the level that it adds to auto-exposure: brackets want less of it than photographs like the training ones.
python -m models.average "$out/r/best.safetensors" "$out/s/best.safetensors" "$out/s/best.safetensors" "$out/pqnuz.safetensors" "$out/pqnuz.safetensors" \
    --level 0.9 --out "$out/p_ieanet.safetensors"
