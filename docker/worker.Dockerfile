# A worker for compose.yaml, and a pattern for your own.
ARG PYTHON=python:3-slim

FROM ${PYTHON} AS packages
COPY . /src
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir /src

FROM ${PYTHON}
COPY --from=packages /venv /venv
WORKDIR /app
COPY examples examples
COPY docker/worker.py ./
# A checkout may be closed to others.
RUN chmod -R go=rX .
USER nobody
CMD ["/venv/bin/python", "worker.py"]
