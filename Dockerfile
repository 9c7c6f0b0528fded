# One image for both roles: `python -m ingress` and `python -m forwarder`.
FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY ingress ingress
COPY forwarder forwarder
COPY shared shared
COPY sandbox sandbox
RUN /venv/bin/pip install --no-cache-dir .

# The trial's image: the same, and what the stand-in API runs on.
FROM build AS build-demo
RUN /venv/bin/pip install --no-cache-dir uvicorn starlette

FROM python:3.12-slim AS base
RUN useradd --system --uid 10001 --no-create-home relay
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOG_FORMAT=json
USER 10001
EXPOSE 465 587

FROM base AS demo
COPY --from=build-demo /venv /venv

FROM base AS relay
COPY --from=build /venv /venv
CMD ["python", "-m", "ingress"]
