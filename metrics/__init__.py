"""Figures for residual maps, pixel-level (MAE, SSIM, PSNR) and holistic (PLCC, SRCC, ACC), and how sure they are."""
from .holistic import acc, fit_logistic, holistic_score, ordering, plcc, srcc, verdict
from .pixel import bias, level_detail, mae, mse, psnr, psnr_from_mse, ssim

__all__ = ['acc', 'bias', 'fit_logistic', 'holistic_score', 'level_detail', 'mae', 'mse', 'ordering', 'plcc',
           'psnr', 'psnr_from_mse', 'srcc', 'ssim', 'verdict']
