"""The synthetic data set and its splits, which the training tests share."""

from forcetune.data.readers import synthetic

SYNTHETIC = synthetic(None)
TRAINING, VALIDATION = SYNTHETIC.split(seed=0)  # 288 images for training: four batches of 64 and one of 32
