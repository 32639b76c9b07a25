#!/usr/bin/env bash
# Curate on Hugging Face Jobs: one job makes the plan, NUM jobs do a share of its packs each, one merges and pushes.
#   hf_jobs.sh CONFIG.yaml OWNER/BUCKET OWNER/DATASET NUM [FLAVOR]
# They share a private bucket. Run it again after a failure: what is in the bucket is not done again.
# GRADTX_PACKAGE names what pip installs in the jobs, e.g. "gradtx-hf[train] @ git+https://...".
set -euo pipefail
config=$1 bucket=hf://buckets/$2 dataset=$3 num=$4 flavor=${5:-a10g-small}
image=${GRADTX_IMAGE:-pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime}
package=${GRADTX_PACKAGE:-gradtx-hf[train]}

setup="cd \$(mktemp -d) && pip install -q '$package' && hf sync $bucket/job . && mkdir -p store/shards"
curate="gradtx curate --config curate.yaml --output-dir store"

submit() {  # NAME COMMAND: start a job, print its id
  hf jobs run --quiet --detach --name "$1" --flavor "$flavor" --timeout 24h --attempts 3 --secrets HF_TOKEN \
    "$image" bash -c "set -euo pipefail; $setup; $2"
}

hf buckets create "$2" --private --exist-ok
hf buckets cp "$config" "$bucket/job/curate.yaml"

# 1. plan.json and both initial adapters; a plan that is there is kept
plan=$(submit plan "$curate --plan-only true; hf sync store $bucket/job/store --exclude '.*'")
hf jobs wait "$plan"

# 2. shares: each has its own folder in the bucket, brought up to date every five minutes
ids=()
for ((i = 0; i < num; i++)); do
  shards="$bucket/share-$i-of-$num"
  ids+=("$(submit "share-$i-of-$num" "hf sync $shards store/shards || true
    (while sleep 300; do hf sync store/shards $shards --exclude '.*'; done) & keeper=\$!
    $curate --share $i/$num; kill \$keeper; hf sync store/shards $shards --exclude '.*'")")
done
hf jobs wait "${ids[@]}"

# 3. the shards together: checked, completed if one is missing, with a manifest; a data set of the Hub
merge="for i in \$(seq 0 $((num - 1))); do hf sync $bucket/share-\$i-of-$num store/shards; done"
merged=$(submit merge "$merge; $curate; gradtx store verify store; gradtx store push store $dataset")
hf jobs wait "$merged"
echo "next: gradtx store pull $dataset --output-dir STORE" >&2
