"""Numbers of greydanus/evostrats, `static/evostrats_mnist.png` (2020-07-27), read off its pixels; one run an arm.

Accuracies are good to about 0.03 points, cosines and norm ratios to 2 %.
"""

BETA = 50.0  # by which its estimates are multiplied
DIM = 4012  # parameters of its network with six channels
COSINE_ERROR = 0.02  # relative, of digitising
POPULATIONS = (25, 50, 100, 200, 400)
COSINES = (0.068, 0.101, 0.146, 0.204, 0.279)  # medians over the log points of the run
NORM_RATIOS = (4.38, 4.18, 3.45, 2.68, 1.83)
FINAL_ACCURACY = (94.80, 96.86, 97.53, 97.88, 98.15)  # test, per cent
BACKPROP_ACCURACY = 98.76
STEPS_TO_97 = {100: 5250, 200: 2640, 400: 1900}  # 25 and 50 never
