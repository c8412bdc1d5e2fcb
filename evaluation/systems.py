"""The systems whose scores stand side by side, and how people call them."""

NAMES = {
    # back-ends of the trained networks
    "negative_log_probability": "−log p (the paper's)",
    "nearest_neighbour": "nearest neighbour",
    "mahalanobis": "Mahalanobis",
    "gaussian_mixture": "Gaussian mixture",
    # simple methods
    "rms": "level alone",
    "logmel_nearest_neighbour": "log-mel nearest neighbour",
    "logmel_mahalanobis": "log-mel Mahalanobis",
    # peers
    "autoencoder": "DCASE 2020 autoencoder",
    "mobilenetv2": "MobileNetV2",
    "stgram_mfn": "STgram-MFN",
    "aadcl": "AADCL",
    "gmade": "GMADE",
    "glow_aff": "Glow_Aff",
    "subcluster_adacos": "sub-cluster AdaCos",
}
BACKENDS = list(NAMES)[:4]
REFERENCES = list(NAMES)[4:8]  # the simple methods; a run may lack the last, the autoencoder
PEERS = list(NAMES)[7:]  # a run has those of score.peers
