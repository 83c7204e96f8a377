# One image for all roles: `docker run keyferry gateway --config ...`.
FROM rust:1.95.0-bookworm AS builder
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Which commit this is; `keyferry_build_info` tells it.
ARG REVISION=unknown
ENV KEYFERRY_REVISION=$REVISION
# Without default features: the embedded broker is for the demo and the tests.
RUN cargo build --release --locked --package keyferry --no-default-features

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=builder /src/target/release/keyferry /usr/local/bin/keyferry
# A number, so that Kubernetes can check `runAsNonRoot` without reading /etc/passwd.
USER 65532:65532
ENTRYPOINT ["keyferry"]
