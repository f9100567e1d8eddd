# make quick         two trained networks that come with the repository, aligned and compared: a minute
# make demo          the same from the beginning, with curves, planes and a report: minutes on a laptop
# make demo-pam      the permutation learned together with the curve, between the demo's networks
# make demo-robust   the demo for adversarially robust networks
# make demo-text     two small transformers that learn Shakespeare, aligned by permutations, and by rotations besides
# make report        one HTML file of all results under ROOT (the repository, or demo/ if it has none)
# make bench         this code against the conventional way, timed in one run; its steps on a GPU, if there is one
# make networks      what can be permuted in torchvision's and timm's networks, and is found again; an hour or more
# make test          lint and tests, offline, on the CPU
# make torture       kills stages, damages their files, and counts what came of it; minutes
#
# All of them install what they need into .venv first, once. TORCH=cpu takes the wheels without GPU support.

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python

.PHONY: help quick demo demo-pam demo-robust demo-text report bench networks test torture

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# Two networks of the demo, as demo-networks wrote them; what is made of them goes to quick/.
QUICK := --root quick --dir_models results/demo/networks --seed_a 1 --seed_b 2
QUICK_LINE := $(QUICK) --epochs_model 8 --epochs_curve 0 --num_points 5 --bn_images 2000
.PHONY: quick-stages
quick: .venv/installed
	@$(MAKE) --no-print-directory quick-stages
quick-stages:
	$(RUN) alignment/align_models.py $(QUICK) --epochs 8
	$(RUN) evaluation/eval_curve.py $(QUICK_LINE) --alignment ''
	$(RUN) evaluation/eval_curve.py $(QUICK_LINE) --alignment corr
	$(RUN) visualization/viz_curve.py --root quick --epochs 0
	$(RUN) evaluation/make_tables.py --root quick
	@echo 'The figure: quick/figures/curve_FashionMNIST10k_TinyTen.png'

demo: .venv/installed
	@$(MAKE) --no-print-directory demo-stages demo-comparison demo-figures
	@echo 'Open demo/figures/report.html in a browser.'

# Two networks, their alignment, and four paths between them: the straight line and a learned curve, without and with
# the alignment. The schedule is the published one with its halvings brought forward (--lr_drop). Every command
# goes on where it stopped, or says that it is done.
DEMO := --root demo
PAIR := $(DEMO) --seed_a 1 --seed_b 2
.PHONY: demo-stages
demo-stages:
	$(RUN) training/train_model.py $(DEMO) --seed 1 2 --epochs 8 --lr_drop 2 --resume
	$(RUN) alignment/align_models.py $(PAIR) --epochs 8 --matrices
	$(RUN) training/train_curve.py $(PAIR) --epochs_model 8 --epochs 6 --lr_drop 2 --alignment '' --resume
	$(RUN) training/train_curve.py $(PAIR) --epochs_model 8 --epochs 6 --lr_drop 2 --alignment corr --resume
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 0 --alignment '' --num_points 9
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 0 --alignment corr --num_points 9
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 6 --alignment '' --num_points 9
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 6 --alignment corr --num_points 9
	$(RUN) visualization/viz_curve.py $(PAIR) --epochs 0 6
	$(RUN) evaluation/make_tables.py $(PAIR) --epochs 0 6 --alignment '' corr

# The demo's networks as they come with the repository, where `make quick` finds them
NETWORKS := results/demo/networks/TinyTen/FashionMNIST10k
.PHONY: demo-networks
demo-networks:
	$(RUN) evaluation/export_point.py $(PAIR) --epochs_model 8 --epochs_curve 0 --t 0 --out $(NETWORKS)/checkpoint_seed_01-8.pt
	$(RUN) evaluation/export_point.py $(PAIR) --epochs_model 8 --epochs_curve 0 --t 1 --out $(NETWORKS)/checkpoint_seed_02-8.pt

# Other alignments of the same two networks, on the straight line, and all of them side by side
LINE := $(PAIR) --epochs_model 8 --epochs_curve 0 --num_points 9
.PHONY: demo-comparison
demo-comparison:
	$(RUN) alignment/align_models.py $(PAIR) --epochs 8 --method weight
	$(RUN) alignment/align_models.py $(PAIR) --epochs 8 --method w2_pre
	$(RUN) evaluation/eval_curve.py $(LINE) --alignment weight
	$(RUN) evaluation/eval_curve.py $(LINE) --alignment w2_pre
	$(RUN) evaluation/compare_alignments.py $(PAIR)

# The planes the curves lie in, on coarse grids, and all figures of the demo
PLANE := $(PAIR) --epochs_model 8 --num_points 7 --bn_images 500
.PHONY: demo-figures
demo-figures:
	$(RUN) evaluation/eval_plane_with_curve.py $(PLANE) --epochs_curve 6 --alignment ''
	$(RUN) evaluation/eval_plane_with_curve.py $(PLANE) --epochs_curve 6 --alignment corr
	$(RUN) evaluation/eval_plane_with_alignment.py $(PLANE)
	$(RUN) visualization/viz_curve_on_plane.py $(PAIR) --epochs 6
	$(RUN) visualization/viz_plane.py $(PAIR)
	$(RUN) visualization/layerwise_mean_correlation/viz_align_models.py $(PAIR)
	$(RUN) evaluation/make_report.py $(DEMO)

demo-pam: .venv/installed
	@$(MAKE) --no-print-directory demo-stages demo-pam-stages

.PHONY: demo-pam-stages
demo-pam-stages:
	$(RUN) training/train_curve_pam.py $(PAIR) --epochs_model 8 --alignment '' --inner_iters_perm 4 --inner_iters_phi 6 \
		--lr_drop 2 --resume
	$(RUN) training/train_curve_pam.py $(PAIR) --epochs_model 8 --alignment corr --inner_iters_perm 4 --inner_iters_phi 6 \
		--lr_drop 2 --resume
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 6 --alignment pam_null --num_points 9
	$(RUN) evaluation/eval_curve.py $(PAIR) --epochs_model 8 --epochs_curve 6 --alignment pam_corr --num_points 9
	$(RUN) evaluation/eval_curve.py $(LINE) --alignment pam_null
	$(RUN) evaluation/eval_curve.py $(LINE) --alignment pam_corr
	$(RUN) evaluation/compare_alignments.py $(PAIR)
	$(RUN) visualization/viz_curve.py $(PAIR) --epochs 6 --alignment '' pam_null pam_corr corr --name pam
	$(RUN) evaluation/make_tables.py $(PAIR) --epochs 6 --alignment '' pam_null pam_corr corr --name pam
	$(RUN) evaluation/make_report.py $(DEMO)

demo-robust: .venv/installed
	@$(MAKE) --no-print-directory demo-robust-stages

# Attacks of 2 steps in training and of 5 in evaluation; batch norm is re-estimated on 2,000 attacked images.
ROBUST := --attack_steps 2 --attack_step 5/255 --resume
ROBUST_EVAL := $(PAIR) --epochs_model 6 --num_points 5 --bn_images 2000
.PHONY: demo-robust-stages
demo-robust-stages:
	$(RUN) training/train_model_adversarial.py $(DEMO) --seed 1 2 --epochs 6 $(ROBUST)
	$(RUN) alignment/align_models.py $(PAIR) --epochs 6 --adversarial
	$(RUN) training/train_curve_adversarial.py $(PAIR) --epochs_model 6 --epochs 4 --alignment '' $(ROBUST)
	$(RUN) training/train_curve_adversarial.py $(PAIR) --epochs_model 6 --epochs 4 --alignment corr $(ROBUST)
	$(RUN) evaluation/eval_adversarial_curve.py $(ROBUST_EVAL) --epochs_curve 0 --alignment ''
	$(RUN) evaluation/eval_adversarial_curve.py $(ROBUST_EVAL) --epochs_curve 0 --alignment corr
	$(RUN) evaluation/eval_adversarial_curve.py $(ROBUST_EVAL) --epochs_curve 4 --alignment ''
	$(RUN) evaluation/eval_adversarial_curve.py $(ROBUST_EVAL) --epochs_curve 4 --alignment corr
	$(RUN) visualization/viz_adversarial_curve.py $(PAIR) --epochs 0 4
	$(RUN) evaluation/make_tables.py $(PAIR) --epochs 0 4 --alignment '' corr --adversarial
	$(RUN) evaluation/make_report.py $(DEMO)

demo-text: .venv/installed
	@$(MAKE) --no-print-directory demo-text-stages

# Lines, and curves that are learned for half as long as the networks, by three alignments
TEXT := --root demo --model GPT --dataset text:data/shakespeare.txt.xz
TEXT_PAIR := $(TEXT) --task language --seed_a 1 --seed_b 2
TEXT_SGD := --optimizer adamw --lr 0.003 --wd 0.01 --batch_size 32 --lr_drop 1 --resume
TEXT_CURVE := training/train_curve.py $(TEXT_PAIR) --epochs_model 2 --epochs 1 $(TEXT_SGD) --alignment
TEXT_EVAL := evaluation/eval_curve.py $(TEXT_PAIR) --epochs_model 2 --num_points 9
TEXT_SHOWN := $(TEXT) --seed_a 1 --seed_b 2 --epochs 0 1 --alignment null weight weight_rotations
.PHONY: demo-text-stages
demo-text-stages:
	$(RUN) training/train_model.py $(TEXT) --task language --seed 1 2 --epochs 2 $(TEXT_SGD)
	$(RUN) alignment/align_models.py $(TEXT_PAIR) --epochs 2 --method weight
	$(RUN) alignment/align_models.py $(TEXT_PAIR) --epochs 2 --method weight --rotations
	$(RUN) $(TEXT_CURVE) null
	$(RUN) $(TEXT_CURVE) weight
	$(RUN) $(TEXT_CURVE) weight_rotations
	$(RUN) $(TEXT_EVAL) --epochs_curve 0 --alignment null
	$(RUN) $(TEXT_EVAL) --epochs_curve 0 --alignment weight
	$(RUN) $(TEXT_EVAL) --epochs_curve 0 --alignment weight_rotations
	$(RUN) $(TEXT_EVAL) --epochs_curve 1 --alignment null
	$(RUN) $(TEXT_EVAL) --epochs_curve 1 --alignment weight
	$(RUN) $(TEXT_EVAL) --epochs_curve 1 --alignment weight_rotations
	$(RUN) visualization/viz_curve.py $(TEXT_SHOWN)
	$(RUN) evaluation/make_tables.py $(TEXT_SHOWN)

ROOT ?= $(if $(wildcard model_data/*curves),.,demo)
report: .venv/installed
	$(RUN) evaluation/make_report.py --root $(ROOT)

bench: .venv/installed
	$(RUN) benchmarks/bench.py
	$(RUN) benchmarks/gpu.py --compile

networks: .venv/installed
	$(RUN) benchmarks/networks.py

# The tests that compare numbers, once more: by the kernels of an old processor, whose sums have another order
NUMBERS := curves ensembles geometry images matching measuring pam repair
PLAIN := OMP_NUM_THREADS=1 MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2
test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal  # processes of one thread, a core each
	$(PLAIN) $(RUN) -m pytest -n auto --dist worksteal -k 'not GoogLeNet and not bf16' $(NUMBERS:%=tests/test_%.py)

torture: .venv/installed-dev
	$(RUN) benchmarks/torture

# The virtual environment, of the versions with which the tests ran; filled anew when the requirements change
NEEDS := about 3 GB to download and 6 GB on disk (TORCH=cpu: without 4 GB that are for GPUs)
WHEELS := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
INSTALL := $(RUN) -m pip install --disable-pip-version-check --constraint .venv/versions.txt
.venv/versions.txt: requirements.lock
	@mkdir -p .venv
	@sed -n 's/^\([a-z][^\\]*==[^\\]*\) \\$$/\1/p' $< > $@

.venv/installed: .venv/versions.txt requirements.txt requirements-report.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed; name one with: make demo PYTHON=python3.12")'
	test -x $(RUN) || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv: $(NEEDS), a few minutes.'
	$(INSTALL) $(WHEELS) -r requirements.txt -r requirements-report.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/versions.txt .venv/installed
	$(INSTALL) --quiet -r $<
	@touch $@
