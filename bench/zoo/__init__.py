"""The zoo: public architectures with random weights, and what widthwise makes of each.

python -m bench.zoo --family timm        # one process and one time limit for each network
python -m bench.zoo --only timm/levit_128s transformers/llama
python -m bench.zoo --peer --write       # Torch-Pruning too; store and write docs/coverage.md
"""
