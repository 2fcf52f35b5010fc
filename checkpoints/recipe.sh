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
for set in stacks photos stacks-frame hdri hdri-fused photos-bracket photos-mixed; do
    set -- "$@" --data "$sets/$set" --train-csv "$sets/$set/train.csv" --val-csv "$sets/$set/val.csv"
done

train() {  # name, pictures of each source in a batch: photographs and references of brackets exposed anew, then the sets above; flags
    name=$1 mix=$2
    shift 2
    # The last weights count.
    ${PYTHON:-python} train_wavelet.py --photos "$photos" "$sets/stacks/train.csv" --mix $mix --jitter 1 --amp bf16 --cache --weight-decay 0.05 \
        --sizes 128 --late-sizes 256 --val-every 1000000 --val-limit 60 --out "$out/$name" --resume auto "$@"
}
# A: everything. B: from A, more photographs, nearly whole pictures.
train A "3 2 2 1 2 3 2 1" --steps 4400 --lr 1e-3 --min-window 0.6 "$@"
train B "4 2 4 1 1 2 1 1" --init "$out/A/best.safetensors" --steps 2070 --lr 6e-4 --warmup 50 --ema 0.995 --min-window 0.7 --seed 1 "$@"
# The mean is nearly A on brackets, nearly B on photographs.
python -m models.average "$out/A/best.safetensors" "$out/B/best.safetensors" --out "$out/p_ieanet.safetensors"
