# Package and bundles for a CPU. PyPI's torch for Linux has CUDA (some GB); for the CPU build, name PyTorch's CPU index:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<index of CPU wheels> --tag monai-pdddpm .
#   docker run --rm --network none --volume "$PWD":/work monai-pdddpm monai_pdddpm demo
FROM python:3.11-slim AS build
COPY . /source
RUN python -m pip install --no-cache-dir "build>=1.2" && python -m build --wheel --outdir /dist /source

FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
COPY --from=build /dist /dist
RUN python -m pip install --no-cache-dir "$(ls /dist/*.whl)[dicom]"
COPY bundles /bundles
RUN useradd --create-home --uid 1000 user && mkdir /work && chown user /work
USER 1000
WORKDIR /work
ENTRYPOINT ["python", "-m"]
CMD ["monai_pdddpm", "--help"]
