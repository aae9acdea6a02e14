#!/usr/bin/env bash
# Everything that xbatch serve answers, with curl alone: chat, generate, streaming, and a batch through files.
#
#     xbatch serve -m demo & bash examples/chat.sh
#
# XBATCH_URL, XBATCH_MODEL and XBATCH_API_KEY say where the server is, which model to ask, and the key if it wants one.
set -euo pipefail

url=${XBATCH_URL:-http://127.0.0.1:8000}
model=${XBATCH_MODEL:-demo}
ask() { curl --silent --show-error --fail-with-body ${XBATCH_API_KEY:+-H "Authorization: Bearer $XBATCH_API_KEY"} "$@"; }
field() { grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }

echo "== chat"
ask "$url/v1/chat/completions" -H 'Content-Type: application/json' -d '{
    "model": "'"$model"'",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the largest animal?"}
    ],
    "max_tokens": 64,
    "temperature": 0
}'
echo

echo "== generate"
ask "$url/v1/completions" -H 'Content-Type: application/json' -d '{
    "model": "'"$model"'",
    "prompt": "What is the tallest animal?",
    "max_tokens": 64,
    "temperature": 0
}'
echo

echo "== streaming"
ask --no-buffer "$url/v1/chat/completions" -H 'Content-Type: application/json' -d '{
    "model": "'"$model"'",
    "messages": [{"role": "user", "content": "What is the smallest bird?"}],
    "temperature": 0,
    "stream": true
}'

echo "== batch"
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
while read -r id question; do
    echo '{"custom_id": "'"$id"'", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "'"$model"'",' \
        '"messages": [{"role": "user", "content": "'"$question"'"}], "max_tokens": 64, "temperature": 0}}'
done >"$rows" <<'END'
first What is the largest animal?
second What is the largest bird?
END
file=$(ask "$url/v1/files" -F purpose=batch -F "file=@$rows;filename=questions.jsonl" | field id)
batch=$(ask "$url/v1/batches" -H 'Content-Type: application/json' -d '{
    "input_file_id": "'"$file"'",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h"
}' | field id)
while status=$(ask "$url/v1/batches/$batch" | field status); do
    case $status in
        completed) break ;;
        failed | expired | cancelled) echo "The batch $batch is $status." >&2; exit 1 ;;
    esac
    sleep 0.5
done
ask "$url/v1/files/$(ask "$url/v1/batches/$batch" | field output_file_id)/content"
