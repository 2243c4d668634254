#!/bin/sh
# Makes ./secrets for this Compose project, once. Never overwrites anything.
#
#   ./prepare.sh tunnel.example.net api.tunnels.example.net
#
# QANAT is how to run the command: by default the image of .env.
set -eu
umask 077
cd "$(dirname "$0")"
base=${1:?usage: prepare.sh BASE_DOMAIN API_HOST}
api=${2:?usage: prepare.sh BASE_DOMAIN API_HOST}
[ ! -e secrets ] || { echo "secrets/ exists: nothing was done"; exit 1; }
[ ! -e .env ] || . ./.env
run_qanat() {
    if [ -n "${QANAT-}" ]; then
        $QANAT "$@"
    else
        docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/secrets:/work/secrets" --workdir /work \
            "${QANAT_OPERATOR_IMAGE:?set it in .env, by digest}" "$@"
    fi
}

mkdir secrets
# Half of them would look like all of them to the next run.
trap 'rm -rf secrets' EXIT
trap 'exit 1' HUP INT TERM
run_qanat edge pki --directory secrets/pki --base-domain "$base"
run_qanat edge client-cert --name gateway --ca secrets/pki/client-ca.pem --ca-key secrets/pki/client-ca-key.pem --output secrets/pki/gateway
for name in postgres-password edge-service-key gateway-service-key; do
    openssl rand -hex 32 | tr -d '\n' > secrets/$name
done
printf 'postgresql://qanat:%s@postgres:5432/qanat' "$(cat secrets/postgres-password)" > secrets/database-url

# A certificate for the API and the gateway: replace it by one your clients trust.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj "/CN=$api" \
    -addext "subjectAltName=DNS:$api,DNS:control,DNS:gateway,DNS:localhost,IP:127.0.0.1" \
    -keyout secrets/control-key.pem -out secrets/control.pem 2>/dev/null
cp secrets/control.pem secrets/control-ca.pem
# Containers read them as other users; on this host nobody else gets into the folder.
find secrets -type f -exec chmod 0444 {} +
chmod 0400 secrets/pki/*-ca-key.pem
chmod 0700 secrets
trap - EXIT
echo "secrets/ is ready; keep secrets/pki/*-ca-key.pem offline"
