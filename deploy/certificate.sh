#!/bin/bash
# Make FOLDER a Dask configuration that demands TLS: one certificate, which all who hold its key trust and no one else has.
#   deploy/certificate.sh FOLDER [PLACE]     PLACE: where the folder will be mounted, such as /etc/dask; FOLDER if left out
set -eu
here=$(dirname "$(realpath "$0")")
umask 077
mkdir -p "$1"
folder=$(realpath "$1")
place=${2:-$folder}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "${DAYS:-30}" -subj /CN=tilewise \
  -addext keyUsage=critical,keyCertSign,digitalSignature -keyout "$folder/key.pem" -out "$folder/cert.pem" 2> "$folder/openssl.log" \
  || { cat "$folder/openssl.log" >&2; exit 1; }
rm "$folder/openssl.log"
cp "$here/dask.yaml" "$folder/dask.yaml"
cat > "$folder/tls.yaml" << YAML
distributed:
  comm:
    require-encryption: true
    default-scheme: tls
    tls:
      ca-file: $place/cert.pem
      scheduler: {cert: $place/cert.pem, key: $place/key.pem}
      worker: {cert: $place/cert.pem, key: $place/key.pem}
      client: {cert: $place/cert.pem, key: $place/key.pem}
YAML
