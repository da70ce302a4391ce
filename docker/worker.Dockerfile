# A worker for compose.yaml, and a pattern for your own: put your machines in the place of examples/, and name them in CMD.
ARG PYTHON=python:3-slim

FROM ${PYTHON} AS packages
COPY . /src
# pip stays outside of what it fills.
RUN python3 -m venv --without-pip /venv \
    && python3 -m pip --python /venv/bin/python install --no-cache-dir '/src[cli,prometheus]'

FROM ${PYTHON}
COPY --from=packages /venv /venv
WORKDIR /app
COPY examples examples
COPY docker/health.py ./
# A checkout may be closed to others. Nothing is written later, so that a read-only file system will do.
RUN chmod -R u=rwX,go=rX . && python3 -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# /metrics, /health and /ready, of which the health check asks for one.
ENV GENDURABLE_METRICS_PORT=9464 GENDURABLE_METRICS_HOST=0.0.0.0
EXPOSE 9464
# By number, so that Kubernetes sees that it is not root. Nobody owns anything here.
USER 65534:65534
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 CMD ["python", "/app/health.py"]
# Process 1 is the worker itself: signals reach it.
ENTRYPOINT ["gendurable"]
CMD ["worker", "examples.checkout"]
