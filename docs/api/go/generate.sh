#!/bin/sh
# Generates wire/ from the .proto files: generate.sh FOLDER, the folder that holds hcefs/v1.
# Needs go, and protoc or Python with grpcio-tools (make venv has it).
set -eu
protos=$(cd "$1" && pwd)
cd "$(dirname "$0")"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
go build -o "$tools/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
set --
for proto in "$protos"/hcefs/v1/*.proto; do
  name=hcefs/v1/${proto##*/} package=hcefs.example/client/wire
  set -- "$@" --go_opt="M$name=$package" --go-grpc_opt="M$name=$package" "$name"
done
if command -v protoc >/dev/null; then protoc=protoc; else protoc="python3 -m grpc_tools.protoc"; fi
PATH="$tools:$PATH" $protoc -I"$protos" --go_out=. --go_opt=module=hcefs.example/client \
  --go-grpc_out=. --go-grpc_opt=module=hcefs.example/client "$@"
