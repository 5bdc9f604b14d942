# The image of the pinned stack: Debian, Python 3.11, the CUDA 12.4 wheels, unsloth, vLLM and loadcheck; no GPU is needed to build it.
# Stages: os (Debian and what Triton compiles with), stack (the lock, installed, patched and pruned), code (loadcheck), image.
# It is written for the oldest builders in use: BuildKit of Docker 20.10, and buildah 1.28. docs/image.md says how it is built.
ARG BASE=debian:bookworm-20250203-slim@sha256:40b107342c492725bc7aacbe93a49945445191ae364184a6d24fedb28172f6f7
# The day of the lock: the time of every file, and what bytecode is compared with.
ARG SOURCE_DATE_EPOCH=1739491200

FROM ${BASE} AS os
ARG SOURCE_DATE_EPOCH
# Mounted on folders that Debian has, so that no empty one is left behind; single files, so that no other file starts this again.
RUN --mount=type=bind,source=scripts/image/inside,target=/mnt \
    --mount=type=bind,source=env/image.toml,target=/srv/image.toml \
    --mount=type=secret,id=apt_sources \
    /mnt/install-debian /srv/image.toml

FROM os AS stack
ARG SOURCE_DATE_EPOCH
# The installer of the installer; neither is in the image.
RUN --mount=type=bind,source=scripts/image/inside,target=/mnt \
    --mount=type=secret,id=apt_sources \
    /mnt/apt python3.11-venv
RUN --mount=type=bind,source=scripts/image/inside,target=/mnt \
    --mount=type=bind,source=env/tools.lock,target=/srv/tools.lock \
    --mount=type=bind,source=env/requirements.lock,target=/srv/requirements.lock \
    --mount=type=bind,source=env/smollm2.lock,target=/srv/smollm2.lock \
    --mount=type=bind,source=env/image.toml,target=/srv/image.toml \
    --mount=type=secret,id=ca \
    --mount=type=secret,id=index \
    /mnt/install-stack /srv

FROM stack AS code
ARG SOURCE_DATE_EPOCH
RUN --mount=type=bind,source=.,target=/mnt \
    /mnt/scripts/image/inside/install-code /mnt

FROM os AS image
# The settings of scripts/image/inside/settings, which sets the same ones where a shell has lost these (ssh, chroot, Apptainer).
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/loadcheck \
    LOGNAME=loadcheck \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOADCHECK_CACHE=/home/loadcheck/weights \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_LIBCUDA_PATH=/opt/loadcheck/libcuda \
    HF_TOKEN_PATH=/run/secrets/hf_token \
    HF_HUB_ENABLE_HF_TRANSFER=0 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    UNSLOTH_DISABLE_STATISTICS=1 \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
# Four layers, so that they are pulled side by side; the last one is all that a change of our code sends again.
COPY --from=stack /layers/cuda/ /
COPY --from=stack /layers/torch/ /
COPY --from=stack /layers/packages/ /
COPY --from=code /layers/code/ /
WORKDIR /home/loadcheck
USER 1000:1000
ENTRYPOINT ["loadcheck"]
CMD ["load"]
ARG COMMIT=unknown
ARG VERSION=unknown
ENV LOADCHECK_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="loadcheck" \
      org.opencontainers.image.description="Llama 3.1 8B in 4-bit with LoRA under CUDA 12.4, Torch 2.5.1, vLLM 0.7.2 and Unsloth 2025.2.5; every memory figure checked" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-20250203-slim"
