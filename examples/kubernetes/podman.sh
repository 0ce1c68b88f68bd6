#!/bin/sh
# Prints shop.yaml as `podman kube play` needs it, and a Secret; README.md says why.
# Usage: podman.sh | podman kube play --network NETWORK -
set -eu
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n' | base64)
cat <<END
apiVersion: v1
kind: Secret
metadata:
  name: shop-outrigger-admin
data:
  token: $token
---
END
sed -e '/^kind: Deployment/,/^spec:/s/^  name: .*/&\n  annotations: {io.podman.annotations.init.container.type: always}/' \
    -e 's/^      initContainers:/      restartPolicy: OnFailure\n&/' \
    -e '/livenessProbe:/,+1d' "$(dirname "$0")/shop.yaml"
