# shellcheck shell=bash
# To be sourced.
# uv trusts certificates of its own; those of a company's proxy are among the system's.
if [ -z "${SSL_CERT_FILE:-}" ] && [ -f /etc/ssl/certs/ca-certificates.crt ]; then
  export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
fi
