# This repository and what it needs, in an image. On the CPU:
#
#     docker build -t neuronalignment .
#     docker run --rm neuronalignment
#
# which runs `make quick`. With support for NVIDIA's GPUs, which takes 4 GB more:
#
#     docker build -t neuronalignment --build-arg TORCH=cuda .
#     docker run --rm --gpus all neuronalignment

FROM python:3.12-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home user

USER user
RUN mkdir /home/user/NeuronAlignment
WORKDIR /home/user/NeuronAlignment

# What is installed first, in a layer that stays while the rest of the repository changes
COPY --chown=user:user Makefile requirements.txt requirements-report.txt ./
RUN make .venv/installed TORCH=$TORCH

COPY --chown=user:user . .
RUN touch .venv/installed

CMD ["make", "quick"]
