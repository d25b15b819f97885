"""The networks: generator, discriminator and the VGG19 of the content loss."""
