"""A network or more of every family in timm, on images as small as each takes."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from bench.zoo.network import Made, Network, on_smallest_image
from torch import nn

NAMES = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny
coat_tiny coatnet_pico_rw_224 convformer_s18 convit_tiny convmixer_768_32 convnext_zepto_rms
convnextv2_atto cpubone_nano crossvit_9_240 cs3darknet_s csatv2 cspnext_tiny cspresnet50 darknet53
davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 densenet121
dla34 dla46_c dpn68 eca_halonext26ts edgenext_xx_small efficientformer_l1 efficientformerv2_s0
efficientnet_lite0 efficientnetv2_rw_t efficientvim_m1 efficientvit_b0 efficientvit_m0
ese_vovnet19b_dw eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100 flexivit_small
focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnet_100 ghostnetv2_100 ghostnetv3_050 gmixer_12_224
gmlp_ti16_224 haloregnetz_b hardcorenas_a hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small
iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lambda_resnet26t
lcnet_050 lcnetv2_small legacy_senet154 legacy_seresnet18 legacy_xception levit_128s
levit_conv_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 mixer_s32_224 mixnet_s
mnasnet_100 mobilenet_edgetpu_100 mobilenetv2_100 mobilenetv3_small_050 mobilenetv4_conv_small
mobilenetv4_hybrid_medium mobilenetv5_base mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 nf_resnet26
nfnet_l0 pit_ti_224 pnasnet5large poolformer_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002
regnety_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m1 res2net50_14w_8s res2next50
resmlp_12_224 resnest14d resnet10t resnet18 resnet18d resnet26t resnet50_gn resnetblur18 resnetrs50
resnetv2_18 resnetv2_50x1_bit resnext50_32x4d rexnet_100 samvit_base_patch16_224 selecsls42
semnasnet_050 sequencer2d_s seresnet18 shvit_s1 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnet_b0
tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11
vgg11_bn visformer_tiny vit_relpos_small_patch16_224 vit_small_patch16_dinov3 vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a wide_resnet50_2 xception41
xcit_nano_12_p16_224
""".split()


def _make(name: str) -> Made:
    return on_smallest_image(partial(_build, name))


def _build(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 1000}  # some are published without a head
    if (timm.get_pretrained_cfg(name) or timm.create_model(name).default_cfg).fixed_input_size:
        options["img_size"] = size
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


NETWORKS = tuple(Network(f"timm/{name}", partial(_make, name)) for name in NAMES)
