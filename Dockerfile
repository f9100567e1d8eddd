# This repository and what it needs, as pinned in requirements.lock, with a compiler for --compile. On the CPU:
#
#     docker build -t neuronalignment .
#     docker run --rm neuronalignment
#
# which runs `make quick`. What a stage writes outlives its container in a volume:
#
#     docker run --rm -v runs:/runs neuronalignment .venv/bin/python training/train_model.py --root /runs --seed 1
#
# With support for NVIDIA's GPUs, which takes 4 GB more:
#
#     docker build -t neuronalignment --build-arg TORCH=cuda .
#     docker run --rm --gpus all neuronalignment

FROM python:3.12-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home user \
    && install --directory --owner user /runs
VOLUME /runs

USER user
RUN mkdir /home/user/NeuronAlignment
WORKDIR /home/user/NeuronAlignment

# What is installed first, in a layer that stays while the rest of the repository changes
COPY --chown=user:user Makefile requirements.txt requirements-report.txt requirements.lock ./
RUN make .venv/installed TORCH=$TORCH

COPY --chown=user:user . .
RUN touch .venv/installed

CMD ["make", "quick"]
